"""The page of a comparison of models: their figures, what they cost, and where they disagree."""
from dataclasses import replace
from pathlib import Path

from markupsafe import Markup

from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.evaluation.disagreement import disagreement
from cellseg_mm.io.image import read_annotated_image
from cellseg_mm.visualization import comparison_charts as charts
from cellseg_mm.visualization.charts import is_known
from cellseg_mm.visualization.comparison_columns import (
    MAIN,
    adjusted_p,
    bounds,
    cost_columns,
    interval_text,
    is_significant,
    metric,
    notes,
    p_text,
    quality_columns,
    title_of,
)
from cellseg_mm.visualization.curves import iterations_per_epoch, read_log
from cellseg_mm.visualization.overlay import count_of
from cellseg_mm.visualization.page import (
    MISSING,
    Section,
    chart,
    facts,
    folded,
    join,
    paragraph,
    render_page,
    table,
)
from cellseg_mm.visualization.viewer import ViewerImage, compared, compared_models, viewer

_STYLES = Path(__file__).with_name('templates') / 'comparison_report.css'
_IMAGES = 6
_ENOUGH_CELLS = 10  # in an image of fewer, one cell decides
_PIXELS = 24e6  # of all images shown together, which are some 8 MB of the page


def comparison_page(comparison, evidences, folder, image_root=None):
    """Make the page.

    Args:
        comparison (dict): Of several models, as in `comparison.json`.
        evidences (dict[str, Evidence]): By name of the row, of those that have predictions.
        folder (str | Path): Where `comparison.json` lies, which paths in it are relative to.
        image_root (str | Path, optional): What names of images are relative to; without it none are shown.

    Returns:
        str: HTML.
    """
    sections = _figures(comparison), _charts(comparison, folder), _images(comparison, evidences, image_root), \
        _tests(comparison), _about(comparison)
    return render_page(f'Comparison of models: {Path(folder).resolve().name}', _subtitle(comparison),
                       list(filter(None, sections)))


def ranked_by_disagreement(evidences):
    """Images by how far models disagree about them, or, where there is one model, it and the ground truth.

    Args:
        evidences (dict[str, Evidence]): Of the same images.

    Returns:
        list[tuple[float, dict[str, ImagePair]]]: `disagreement` and what each model sees, the most disputed image
            first, of equal ones in the order of their ids.
    """
    by_image = {}
    for name, evidence in evidences.items():
        for pair in evidence.confident:
            by_image.setdefault(pair.image_id, {})[name] = pair
    complete = [by_image[image] for image in sorted(by_image) if len(by_image[image]) == len(evidences)]
    ranked = [(disagreement(list(pairs.values())) if len(pairs) > 1 else _error(*pairs.values()), pairs)
              for pairs in complete]
    return sorted(ranked, key=lambda entry: -entry[0])


def _error(pair):
    return disagreement([pair, replace(pair, predicted=pair.truth)])


def _subtitle(comparison):
    budget, hardware = comparison.get('budget') or {}, comparison.get('hardware') or {}
    limits = [count_of(budget['iterations'], 'iteration')] if budget.get('iterations') else []
    limits += [f'{budget["minutes"]:g} min'] if is_known(budget.get('minutes')) else []
    images, groups, cells = (comparison.get(key) or 0 for key in ('images', 'groups', 'cells'))
    parts = [count_of(len(comparison['rows']), 'model'), Path(comparison.get('ground_truth') or '').name,
             f'{count_of(images, "image")} in {count_of(groups, "group")}, {count_of(cells, "true cell")}']
    parts += [f'budget {" or ".join(limits)} each'] if limits else []
    return ' · '.join(filter(None, [*parts, _machine(hardware)]))


def _machine(hardware):
    if not hardware:
        return ''
    cores = count_of(hardware['cores'], 'core') if is_known(hardware.get('cores')) else None
    return ', '.join(filter(None, [hardware.get('processor'), cores, *(hardware.get('gpus') or ['no GPU'])]))


def _figures(comparison):
    banner, *said = ['', *notes(comparison)]
    if comparison.get('class_agnostic'):
        banner, *said = said
    parts = [Markup('<style>{}</style>').format(Markup(_STYLES.read_text(encoding='utf-8')))]  # noqa: S704 -- ours
    parts += [Markup('<p class="banner">{}</p>').format(banner)] if banner else []
    parts += [paragraph(verdict(comparison)), _table(comparison, quality_columns(comparison))]
    said += map(str, comparison.get('notes') or ())
    parts.append(Markup('<ul class="notes">{}</ul>').format(
        Markup('').join(Markup('<li>{}</li>').format(text) for text in said)))
    if cost := cost_columns(comparison):
        parts.append(_table(comparison, cost, 'Cost', problems=False))
    return Section('Figures', join(*parts))


def verdict(comparison):
    """Which model is best, and which differ from the first, in a few sentences."""
    rows = comparison['rows']
    known = [row for row in rows if metric(row, MAIN) is not None]
    if not known:
        return 'There are no figures of any model.'
    top = max(f'{metric(row, MAIN):.3f}' for row in known)
    best = [row for row in known if f'{metric(row, MAIN):.3f}' == top]
    names, figure = ' and '.join(map(title_of, best)), f'{top} {interval_text(bounds(best[0], MAIN))}'.strip()
    if len(best) > 1:
        said = [f'{names} have the highest AP50 at the dense cap, {top}.']
    elif len(known) > 1:
        said = [f'{names} has the highest AP50 at the dense cap, {figure}.']
    else:
        said = [f'AP50 of {names} at the dense cap is {figure}.']
    adjusted = adjusted_p(rows)
    tested = [(row, p) for row, p in zip(rows, adjusted, strict=True) if p is not None]
    if tested:
        better, worse = ([title_of(row) for row, p in tested if is_significant(p) and
                          sign * row['versus_first'][MAIN]['difference'] > 0] for sign in (1, -1))
        first = title_of(rows[0])
        said += [f'Better than {first} by more than chance: {", ".join(better)}.'] if better else []
        said += [f'Worse than {first} by more than chance: {", ".join(worse)}.'] if worse else []
        if not better and not worse:
            said.append(f'No other model differs from {first} by more than may be chance.')
    return ' '.join(said)


def _table(comparison, columns, caption='', problems=True):
    rows, bests = comparison['rows'], [column.best for column in columns]
    problem = Markup('<small class="problem">{}</small>')
    body = [[title_of(row) + problem.format(row['problem']) if problems and row.get('problem') else title_of(row),
             *((column.values[index], _text(column, index, best[index])) for column, best
               in zip(columns, bests, strict=True))] for index, row in enumerate(rows)]
    return Markup('<div class="comparison">{}</div>').format(
        table(['model', *(column.title for column in columns)], body, caption, sortable=True))


def _text(column, index, best):
    text = column.texts[index] or MISSING
    shown = Markup('<b>{}</b>').format(text) if best else text
    detail = column.details[index]
    return Markup('{}<small>{}</small>').format(shown, detail) if column.texts[index] and detail else shown


def _charts(comparison, folder):
    rows = [row for row in comparison['rows'] if metric(row, MAIN) is not None]
    if not rows:
        return None
    timed = [row for row in rows if is_known(speed := (row.get('cost') or {}).get('images_per_second')) and speed > 0]
    parts = []
    if timed:
        untimed = [title_of(row) for row in rows if row not in timed]
        speeds, scores = [row['cost']['images_per_second'] for row in timed], [metric(row, MAIN) for row in timed]
        front = [title_of(timed[i]) for i in charts.pareto_front(speeds, scores)]
        parts += [chart(charts.speed_and_quality(timed)),
                  paragraph(f'On the dashed front, none being both faster and better: {", ".join(front)}.'
                            + f' Not drawn, as their speed is not known: {", ".join(untimed)}.' * bool(untimed))]
    parts.append(chart(charts.ap50_of_classes(rows, comparison['classes'])))
    curves = {title_of(row): curve for row in rows if (curve := _curve(row, folder))}
    # Where all were validated once, the figures above say it.
    parts += [chart(charts.trainings(curves))] if any(len(steps) > 1 for steps, _ in curves.values()) else []
    return Section('Charts', join(*parts))


def _curve(row, folder):
    """(iterations, AP50) of the validations of a row's training; None where there is no log of them."""
    places = [Path(row['source'])] if row.get('source') else []
    places += [Path(folder, row['results']).parent] if row.get('results') else []
    for place in places:
        try:
            training, validation = read_log(place)
        except (UserError, OSError):
            continue
        # A validation counts epochs, or iterations.
        unit = iterations_per_epoch(training) if all('epoch' in record for record in training) else 1
        end = (row.get('training') or {}).get('iterations')
        points = [(min(filter(None, (round(unit * record['step']), end))), value)
                  for record in validation for key, value in record.items()
                  if key.rpartition('/')[2] == MAIN and is_known(value)]
        if points:
            return tuple(map(list, zip(*points, strict=True)))
    return None


def _images(comparison, evidences, image_root):
    ranked = ranked_by_disagreement(evidences)
    if not ranked:
        return None
    parts, shown, pixels, one = [], [], 0, len(evidences) == 1
    many = [entry for entry in ranked if len(next(iter(entry[1].values())).truth) >= _ENOUGH_CELLS]
    telling = (many if len(many) >= _IMAGES else ranked)[:_IMAGES]
    for value, pairs in telling if image_root is not None else ():
        pair = next(iter(pairs.values()))
        pixels += pair.height * pair.width
        if shown and pixels > _PIXELS:
            break
        try:
            image = read_annotated_image(Path(image_root, pair.name), (pair.height, pair.width))
        except (CellDataError, OSError) as error:
            parts.append(paragraph(f'An image is not shown: {error}'))
            continue
        panes = compared(pair) if one else compared_models(pairs)
        caption = f'{pair.name}, group {pair.group}: disagreement {value:.3f}'
        shown.append(ViewerImage(f'No. {len(shown) + 1}: {value:.2f}', caption, image, panes, pair.mpp))
    if shown:
        parts.insert(0, viewer(shown, comparison['classes']))
    rows = [[pair.name, pair.group, value, len(pair.truth), *(len(pairs[name].predicted) for name in evidences)]
            for value, pairs in ranked for pair in [next(iter(pairs.values()))]]
    names = [' '.join(str(name).split()) for name in evidences]
    parts.append(folded(f'All {count_of(len(rows), "image")}, and how many cells are seen in each', table(
        ['image', 'group', 'disagreement', 'true cells', *names], rows, sortable=True)))
    text = ('Images on which the model and the ground truth differ most' if one else
            'Images on which models disagree most, whoever is right')
    return Section('Disagreement' if not one else 'Images', join(*parts), (
        f'{text}: the mean of 1 - F1 over pairs of {"the two" if one else "models"}, cells matched at a mask IoU above '
        "0.5 within a class, at the models' score thresholds. 0: the same cells; 1: none in common. Shown are those of "
        f'{_ENOUGH_CELLS} true cells or more, where there are enough of them.'))


def _tests(comparison):
    rows = comparison['rows']
    figures = list(dict.fromkeys(figure for row in rows for figure in row.get('versus_first') or ()))
    if not figures:
        return None
    adjusted = {figure: adjusted_p(rows, figure) for figure in figures}
    body = []
    for index, row in enumerate(rows):
        for figure, test in (row.get('versus_first') or {}).items():
            p, corrected = test.get('p'), adjusted[figure][index]
            body.append([title_of(row), figure, test.get('first'), test.get('second'), _signed(test.get('difference')),
                         interval_text(test.get('interval'), '+') or MISSING, _p(p),
                         _p(corrected, '*' * is_significant(corrected))])
    return Section('Tests', table(
        ['model', 'figure', 'first row', 'this one', 'difference', '95% interval', 'p', 'p after Holm'], body,
        f'Each figure against {title_of(rows[0])}', sortable=True),
        "Holm's correction is over the models within a figure, not over figures: the more of them are looked at, the "
        'more may differ by chance.')


def _signed(value):
    return (value, f'{value:+.3f}') if is_known(value) else None


def _p(p, mark=''):
    return (p, p_text(p) + mark) if is_known(p) else None


def _about(comparison):
    budget, versions = comparison.get('budget') or {}, comparison.get('versions') or {}
    hardware = comparison.get('hardware') or {}
    memory = hardware.get('memory_gb')
    devices = list(dict.fromkeys(row['cost'].get('device') for row in comparison['rows'] if row.get('cost')))
    told = {
        'Ground truth': comparison.get('ground_truth'),
        'Classes': ', '.join(comparison['classes']),
        'Budget': ', '.join(f'{name} {value}' for name, value in budget.items() if value is not None),
        'Hardware': _machine(hardware) + (f', {memory} GB memory' if is_known(memory) else ''),
        'Speed measured on': ', '.join(filter(None, devices)),
        'Versions': ', '.join(f'{name} {version}' for name, version in versions.items()),
    }
    rows = [[title_of(row), row.get('kind'), row.get('source'), row.get('results'), _thresholds(row)]
            for row in comparison['rows']]
    return Section('How it was made', join(
        facts([(name, str(text)) for name, text in told.items() if text]),
        table(['model', 'kind', 'source', 'predictions', 'score thresholds'],
              [[MISSING if cell in (None, '') else str(cell) for cell in row] for row in rows])))


def _thresholds(row):
    evaluation = row.get('evaluation') or {}
    scores = ', '.join(f'{name} {score:.3g}' for name, score in (evaluation.get('thresholds') or {}).items()
                       if is_known(score))
    source = evaluation.get('thresholds_from')
    return scores + (f' (from {source})' if scores and source else '')
