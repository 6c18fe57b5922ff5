"""Part of the data report that shows whether the images of a group look alike, and unlike those of others."""
import html
from collections import Counter
from itertools import count

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup

from cellseg_mm.datasets.splits import in_units_of_content
from cellseg_mm.datasets.survey import SPLITS, TEST_GROUP
from cellseg_mm.visualization import page
from cellseg_mm.visualization.data_statistics import SPLIT_COLOURS, shorten
from cellseg_mm.visualization.overlay import count_of
from cellseg_mm.visualization.page import Section, chart, join, paragraph, picture

THUMBNAIL = 72  # pixels
_A_ROW, _ROWS, _NAMED = 14, 40, 24  # images shown of a group, twice as many of those to test on; groups shown; named
_BESIDE = 2  # images shown of groups that have no line of their own
_SYMBOLS = {'train': 'circle', 'val': 'diamond', 'test': 'x'}


def choose_thumbnails(survey):
    """Images to show: some of each of the first groups, spread over it.

    Args:
        survey (Survey): The data set.

    Returns:
        set[int]: Their indices.
    """
    chosen = set()
    for number, (name, members) in enumerate(survey.groups.items()):
        if number < _ROWS or name == TEST_GROUP:
            limit = min(len(members), _A_ROW * (2 if name == TEST_GROUP else 1))
            chosen |= {members[place] for place in np.linspace(0, len(members) - 1, limit).round().astype(int)}
    return chosen


def groups_section(survey, facts, thumbnails):
    """A map of the images by their looks, and a row of thumbnails for each group.

    Args:
        survey (Survey): The data set.
        facts (list[Facts]): Of each of its images.
        thumbnails (set[int]): The images to show.

    Returns:
        Section: Of the page.
    """
    rows = []
    for name, members in survey.groups.items():
        shown = sorted(thumbnails.intersection(members), key=lambda i: (SPLITS.index(survey.images[i].splits[0]), i))
        if not shown:
            continue
        pictures = Markup('').join(
            Markup('<span class="{}" title="{}">{}</span>').format(
                entry.splits[0], f'{entry.name} ({entry.side})', picture(facts[index].thumbnail, entry.name))
            for index, entry in ((index, survey.images[index]) for index in shown))
        if len(shown) < len(members):
            pictures += Markup('<span class="more">and {:,} more</span>').format(len(members) - len(shown))
        sides = Counter(survey.images[index].side for index in members)
        cells = (count_of(int(survey.counts[members].sum()), 'cell') if survey.annotated[members].any()
                 else 'cells not known')
        rows.append(Markup('<div class="group{}"><div class="name"><b>{}</b><br>{}<br>{}</div>'
                           '<div class="thumbnails">{}</div></div>').format(
            ' whole' * (len(shown) > _BESIDE), name, ', '.join(f'{number:,} {side}' for side, number in sides.items()),
            cells, pictures))
    parts = [_map(survey, facts)] if len(facts) > 2 else []
    parts += [Markup('<p>{}</p>').format(Markup('').join(
        Markup('<span class="key {}"></span>{}').format(split, split) for split in survey.sides)),
        Markup('<div class="groups">{}</div>').format(Markup('').join(rows))]
    if len(rows) < len(survey.groups):
        parts.append(paragraph(f'These are {len(rows):,} of {len(survey.groups):,} groups.'))
    how = f'{survey.grouping[:1].upper()}{survey.grouping[1:]}. ' if survey.grouping else ''
    return Section('Groups', join(*parts), how + 'Images of one patient or slide belong on one side of the split: '
                   'train must hold no look-alike of what val measures on. Where images of a row look unlike, or two '
                   'rows alike, name the groups in a CSV file (--groups of tools/prepare_data.py).')


def _map(survey, facts):
    """A chart of principal components of the space that images are grouped in."""
    points = in_units_of_content(np.array([fact.features for fact in facts]))
    vectors, values, _ = np.linalg.svd(points - points.mean(0), full_matrices=False)
    shares = 100 * values**2 / max((values**2).sum(), 1e-12)
    plane = (vectors[:, :2] * values[:2]).round(3)
    figure = go.Figure(layout=dict(
        title='Images by appearance: what lies close together looks alike', height=480, showlegend=True,
        legend=dict(orientation='v', x=1.01, y=1, yanchor='top', traceorder='reversed'),
        xaxis=dict(title=f'first principal component, {shares[0]:.0f}% of the variance', showgrid=False),
        yaxis=dict(title=f'second, {shares[1]:.0f}%', showgrid=False)))
    colours = page.css_colours(len(survey.groups))
    # Test images, which come last, are drawn first: others lie over them.
    for number, (name, members), colour in reversed(list(zip(count(), survey.groups.items(), colours, strict=False))):
        colour = SPLIT_COLOURS['test'] if name == TEST_GROUP else colour
        entries = [survey.images[index] for index in members]
        sides = {split: None for entry in entries for split in entry.splits}
        figure.add_scatter(
            x=plane[members, 0], y=plane[members, 1], mode='markers',
            name=html.escape(shorten(name, 24)) + (f' ({" and ".join(sides)})' if name != TEST_GROUP else ''),
            showlegend=number < _NAMED or name == TEST_GROUP,
            marker=dict(symbol=[_SYMBOLS[entry.splits[0]] for entry in entries], size=9, color=colour,
                        line=dict(width=0.7, color=page.INK if name != TEST_GROUP else colour)),
            text=[f'{html.escape(entry.name)}<br>{html.escape(name)}, {entry.side}' for entry in entries],
            hovertemplate='%{text}<extra></extra>')
    return chart(figure)

