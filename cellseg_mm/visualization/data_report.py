"""An HTML page about a prepared data set: what is in it, what looks wrong, and what it asks of a model."""
import html
from collections import defaultdict
from datetime import datetime
from itertools import chain
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup

from cellseg_mm.datasets.survey import Cutting, read_facts, read_survey
from cellseg_mm.io.files import write_text
from cellseg_mm.processes import in_processes
from cellseg_mm.visualization import page
from cellseg_mm.visualization.contact_sheets import choose_cells, draw_cell, sheets_section, window_of
from cellseg_mm.visualization.data_statistics import SPLIT_COLOURS, colour_section, percent, shorten, sizes_section
from cellseg_mm.visualization.group_sheets import THUMBNAIL, choose_thumbnails, groups_section
from cellseg_mm.visualization.model_limits import model_section
from cellseg_mm.visualization.overlay import count_of
from cellseg_mm.visualization.page import Section, chart, folded, join, paragraph, table, tiles

NAME = 'data_report.html'
_CSS = Path(__file__).with_name('templates') / 'data_report.css'
_PLACES = 200  # of a warning; all are in warnings.txt
_FEW = 50  # validation cells of a class, below which its AP says little
_UNBALANCED = 3  # cells of the most common class for each one of the rarest
# What to do about each kind of warning, by how it begins; docs/your-data.md says the same.
_REMEDIES = {
    'images without a cell': 'Fine if there is none in them: they teach what is no cell. Else a label map is missing.',
    'cells under': 'Specks, often of hand-drawn masks, or of crops that cut a cell at the edge. They are kept, but a '
                   'model can hardly learn them: erase those that are slips.',
    'suspiciously large cells': 'Two cells of one number, or a region drawn as a cell. Look at the places named, and '
                                'give each cell a number of its own.',
    'images that are equal': 'The same picture twice. Remove one, above all where one of them is to test on.',
    'classes without a cell': 'Nowhere in the data: the model cannot learn them. Leave them out of --classes, or add '
                              'their label maps.',
    'crowd regions': 'Outlines of many cells at once, which cannot teach where one ends. Outline cells singly.',
    'annotations without a pixel': 'Outlines too small to cover a pixel. Remove them.',
}


def write_data_report(root, path, config, workers=None):
    """Write a page about a prepared data set, one HTML file that opens offline.

    Every image is read once, in worker processes, which hold one image each.

    Args:
        root (str | Path): The data set, as `tools/prepare_data.py` leaves it.
        path (str | Path | None): The file; `data_report.html` in `root` if None.
        config (Config): As `load_config` returns it; the part on what the data ask of a model speaks of it.
        workers (int, optional): Processes; one a core by default.

    Returns:
        Path: The file written.

    Raises:
        UserError: If there is no such folder.
        CellDataError: If it is not prepared, or an image cannot be read.
    """
    survey = read_survey(root)
    sheets, thumbnails = choose_cells(survey), choose_thumbnails(survey)
    # A cell may be in two rows, at two scales.
    chosen = {}
    for row in chain(*sheets):
        for cell in row.cells:
            chosen.setdefault(cell, set()).add(row.scale)
    jobs, shown = [], []
    for index, entry in enumerate(survey.images):
        of_classes = survey.cells_of(index)
        shown.append([(cell, scale) for cell in chain(*of_classes) for scale in chosen.get(cell, ())])
        rles = [[survey.rles[cell] for cell in cells] for cells in of_classes]
        jobs.append(Cutting(entry.path, entry.size, rles, [window_of(survey, *cell) for cell in shown[-1]],
                            THUMBNAIL if index in thumbnails else 0))
    facts, pictures = [], {}
    for cells, fact in zip(shown, in_processes(read_facts, jobs, workers, 'reading images'), strict=True):
        pictures |= {cell: draw_cell(survey, *cell, part) for cell, part in zip(cells, fact.parts, strict=True)}
        fact.parts.clear()
        facts.append(fact)

    # What a person should know before training, by the title of the section that tells more.
    findings = defaultdict(list)
    sections = [_problems(survey, findings), _classes(survey, facts, findings), sizes_section(survey),
                colour_section(survey, facts, findings), groups_section(survey, facts, thumbnails),
                sheets_section(survey, sheets, pictures), model_section(survey, config, findings)]
    place = Path(root).resolve()
    path = Path(path or Path(root, NAME))
    write_text(path, page.render_page(f'Data: {place.name}', f'{place}, read on {datetime.now():%d %B %Y, %H:%M}',
                                      [_glance(survey, sections, findings), *sections]))
    return path


def _list(items):
    return Markup('<ul>{}</ul>').format(Markup('').join(Markup('<li>{}</li>').format(item) for item in items))


def _glance(survey, sections, findings):
    entries, sides, annotated = survey.images, survey.sides, survey.annotated
    longest, cells = survey.box[:, 2:].max(1, initial=0), len(survey.image)
    in_split = {split: int(survey.counts[inside].sum()) for split, inside in sides.items()}
    mpps = np.array([entry.mpp for entry in entries if entry.mpp])
    lengths = np.array([max(entry.size) for entry in entries])
    groups = {entry.group for entry in entries if entry.splits != ('test', )}
    figures = [
        ('Images', page.number(len(entries)), _tally({split: inside.sum() for split, inside in sides.items()})),
        ('Cells', page.number(cells), _tally({split: number for split, number in in_split.items() if number})),
        ('Classes', page.number(len(survey.classes)), shorten(', '.join(survey.classes), 60)),
        ('Groups', page.number(len(groups)), survey.grouping.partition(', ')[2]),
        ('Pixel size', f'{np.median(mpps):.3g} µm' if len(mpps) else 'unknown',
         f'recorded for {len(mpps):,} of {len(entries):,} images'),
        ('Longest side of an image', f'{np.median(lengths):,.0f} px',
         f'median; {lengths.min():,} to {lengths.max():,}')]
    if cells:
        scale = f', {np.median(longest) * np.median(mpps):.1f} µm' if len(mpps) == len(entries) else ''
        low, high = np.percentile(longest, (5, 95))
        totals = survey.counts[annotated].sum(1)
        figures += [('Longest side of a cell', f'{np.median(longest):.0f} px',
                     f'median{scale}; 90% are {low:.0f} to {high:.0f} px'),
                    ('Cells in an image', f'{np.median(totals):,.0f}', f'median; {totals.min():,} to {totals.max():,}')]
    sentence = (f'{count_of(int(annotated.sum()), "image")} with {count_of(cells, "cell")} of {len(survey.classes):,} '
                f'class{"es" * (len(survey.classes) != 1)}, ')
    if any({'train', 'val'} <= set(entry.splits) for entry in entries):
        sentence += 'used to train and to validate alike'
    else:
        sentence += ' and '.join(f'{sides[split].sum():,} {purpose}' for split, purpose in (
            ('train', 'to train on'), ('val', 'to validate on')) if split in sides)
    if 'test' in sides:
        unknown = ', whose cells are not known here' * (not in_split['test'])
        sentence += f'; {sides["test"].sum():,} to test on{unknown}'
    numbers = {section.title: number for number, section in enumerate(sections, 2)}
    points = [Markup('{} <a href="#section-{}">{}</a>').format(text, numbers[title], title)
              for title, texts in findings.items() for text in texts]
    style = Markup('<style>{}</style>').format(Markup(_CSS.read_text(encoding='utf-8')))  # noqa: S704
    return Section('At a glance', join(style, tiles(figures), Markup('<h3>What to know before training</h3>'), _list(
        points or ['Nothing in these data calls for a change before training.'])), f'{sentence}.')


def _tally(numbers):
    return ' · '.join(f'{number:,} {split}' for split, number in numbers.items())


def _problems(survey, findings):
    if not survey.notes and not survey.oddities:
        return Section('Problems found', paragraph('None: data preparation found nothing odd in any file.'))
    parts = []
    if survey.notes:
        parts.append(_list(survey.notes))
    if survey.oddities:
        rows = [(kind, next((text for start, text in _REMEDIES.items() if kind.startswith(start)),
                            'See docs/your-data.md.'), len(places)) for kind, places in survey.oddities.items()]
        parts.append(table(['kind', 'what to do', 'places'], rows))
        for kind, places in survey.oddities.items():
            more = f'\n... {len(places) - _PLACES:,} more in annotations/warnings.txt' if len(places) > _PLACES else ''
            parts.append(folded(f'{kind}: {count_of(len(places), "place")}',
                                Markup('<pre>{}</pre>').format('\n'.join(places[:_PLACES]) + more)))
    warned = survey.notes + [f'{kind} ({len(places):,})' for kind, places in survey.oddities.items()]
    findings['Problems found'].append(f'Data preparation warned: {"; ".join(warned)}.')
    return Section('Problems found', join(*parts), 'What tools/prepare_data.py warned of. Everything else about the '
                   'files was checked and found sound: an error would have stopped it.')


def _classes(survey, facts, findings):
    relations = [np.concatenate([getattr(fact, name) for fact in facts])
                 for name in ('touching', 'disconnected', 'overlapping')]
    # Of test images whose cells are not known, nobody wants a column of zeros.
    inside = {split: images[survey.image] for split, images in survey.sides.items()
              if split != 'test' or survey.annotated[images].all()}
    rows = []
    for name, chosen in [(name, survey.label == index) for index, name in enumerate(survey.classes)] + [
            ('all classes', np.ones(len(survey.label), bool))] * (len(survey.classes) > 1):
        count = int(chosen.sum())
        touching, disconnected, overlapping = (int(found[chosen].sum()) for found in relations)
        rows.append((name, *(int((cells & chosen).sum()) for cells in inside.values()), count,
                     percent(count / max(1, len(chosen))), len(np.unique(survey.image[chosen])),
                     percent(touching / max(1, count)), disconnected, overlapping))
    body = [table(['class', *inside, 'all', 'share', 'in images', 'touching', 'in parts', 'overlapping'], rows)]
    totals, sentences = survey.counts.sum(0), []
    if (totals > 0).sum() > 1:
        most, least = int(totals.argmax()), int(np.where(totals > 0, totals, np.inf).argmin())
        ratio = totals[most] / totals[least]
        if ratio >= _UNBALANCED:
            sentences.append(f'The classes are unbalanced: {survey.classes[most]} has {ratio:,.0f} cells for each one '
                             f'of {survey.classes[least]}. AP weighs all classes alike: the rare one counts as much '
                             'as the common one.')
        else:
            body.insert(0, paragraph('The classes are balanced: the most common has '
                                     f'{ratio:.1f} cells for each one of the rarest.'))
    if len(survey.classes) > 1:
        body.append(_shares(survey, inside))
    validated = survey.counts[survey.sides['val']].sum(0) if 'val' in survey.sides else []
    few = [f'{name} ({count:,})' for name, count in zip(survey.classes, validated, strict=False) if count < _FEW]
    if few:
        sentences.append(f'Few cells to validate on: {shorten(", ".join(few), 300)}. AP of so few is mostly chance; '
                         'cross-validation measures on all images.')
    findings['Classes'] += sentences
    return Section('Classes', join(*map(paragraph, sentences), *body), 'Touching: one of the eight neighbours of a '
                   'pixel is a cell of the same class. In parts: not connected, kept as one cell. Overlapping: shares '
                   'pixels with a cell of another class.')


def _shares(survey, inside):
    figure = go.Figure(layout=dict(
        title='Share of each class in the cells of a split', height=110 + 44 * len(survey.classes),
        yaxis=dict(autorange='reversed'), xaxis=dict(title='% of the cells', rangemode='tozero')))
    names = [html.escape(name) for name in survey.classes]
    for split, cells in inside.items():
        counts = np.bincount(survey.label[cells], minlength=len(names))
        figure.add_bar(y=names, x=(100 * counts / max(1, counts.sum())).round(2), name=split, orientation='h',
                       marker_color=SPLIT_COLOURS[split], customdata=counts,
                       hovertemplate='%{y}: %{x:.1f}%, %{customdata:,} cells')
    return chart(figure)
