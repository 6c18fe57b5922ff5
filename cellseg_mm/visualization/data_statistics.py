"""Parts of the data report that count and measure: sizes, density, colour."""
import html

import numpy as np
import plotly.graph_objects as go

from cellseg_mm.datasets.audit import QUANTILES
from cellseg_mm.datasets.survey import TEST_GROUP
from cellseg_mm.visualization import page
from cellseg_mm.visualization.page import Section, beside, chart, join, table

SPLIT_COLOURS = {'train': '#0b62a8', 'val': '#e69f00', 'test': '#9aa4ae'}  # as of data_report.css
_CHANNELS = {'red': '#c0392b', 'green': '#2e8b57', 'blue': '#2f6db5'}
_DYES = {'haematoxylin': '#54429a', 'eosin': '#d0668f'}
_GROUPS = 30  # the most that a chart has room for
_ENOUGH = 5  # training images that tell what is usual


def shorten(text, length):
    """A text of at most `length` characters."""
    return text if len(text) <= length else text[:length - 1] + '\N{HORIZONTAL ELLIPSIS}'


def percent(share):
    """A table's cell of a share: the number to sort by, and the text to show."""
    return share, f'{100 * share:.1f}%'


def sizes_section(survey):
    """How large cells and images are, and how dense cells lie.

    Args:
        survey (Survey): The data set.

    Returns:
        Section: Of the page.
    """
    colours = page.css_colours(len(survey.classes))
    longest, ratio = survey.box[:, 2:].max(1), _aspect(survey.box)

    def of_classes(values):
        return [(html.escape(name), colours[index], values[survey.label == index])
                for index, name in enumerate(survey.classes) if (survey.label == index).any()]

    counts, pixels = survey.counts.sum(1), np.array([np.prod(entry.size) for entry in survey.images])
    annotated = survey.annotated
    sides = {split: survey.sides[split] & annotated for split in survey.sides}

    def of_splits(values):
        return [(split, SPLIT_COLOURS[split], values[chosen]) for split, chosen in sides.items() if chosen.any()]

    parts = []
    if len(longest):
        parts += [beside(_histogram('Longest side of cells', of_classes(longest), 'px', '% of the class', 1),
                         _histogram('Area of cells', of_classes(survey.area), 'px²', '% of the class', 1, log=True)),
                  beside(_histogram('Aspect of cells', of_classes(ratio), 'long side / short side of the box',
                                    '% of the class', 0.05),
                         _histogram('Cells in an image', of_splits(counts), 'cells', '% of the images', 1))]
    parts += [beside(_histogram('Density', of_splits(1e4 * counts / pixels), 'cells in 100 x 100 px', '% of the images',
                                0.1), _image_sizes(survey)),
              _quantiles(survey, longest, ratio, counts, pixels, annotated)]
    return Section('Sizes and density', join(*parts), 'Drag over a part of a chart to enlarge it, double-click to go '
                   'back; a click on a name in the legend hides it.')


def _aspect(boxes):
    return boxes[:, 2:].max(1) / np.maximum(boxes[:, 2:].min(1), 1)


def _histogram(title, series, unit, share, step, log=False):
    """A chart of outlines of histograms; series holds (name, colour, values) of each."""
    figure = go.Figure(layout=dict(title=title, xaxis=dict(title=unit), yaxis=dict(title=share, rangemode='tozero')))
    values = np.concatenate([values for _, _, values in series])
    least, usual, most = float(values.min()), float(np.percentile(values, 99.5)), float(values.max())
    if log:
        edges = np.geomspace(max(least, 1) * 0.95, max(most, 2) * 1.05, 60)
        figure.update_xaxes(type='log', dtick=1)
    else:
        bins = np.clip(2 * np.sqrt(len(values)), 15, 60)
        # So many to what is usual: a rare giant must neither coarsen them nor make millions.
        step *= max(1, round((usual - least) / bins / step), int((most - least) / 3000 / step))
        edges = np.arange(np.floor(least / step), np.floor(most / step) + 2) * step
        figure.update_xaxes(range=[max(0, edges[0] - step), usual + 0.1 * (usual - least) + 2 * step])
    for name, colour, values in series:
        shares = 100 * np.histogram(values, edges)[0] / len(values)
        figure.add_scatter(x=edges.round(3), y=[*shares.round(3), 0], name=name, mode='lines',
                           line=dict(shape='hv', color=colour, width=1.6),
                           fill='tozeroy', fillcolor=_faint(colour), hovertemplate='from %{x:.4g}: %{y:.2f}%')
    figure.update_layout(showlegend=True)
    return chart(figure)


def _faint(colour):
    return 'rgba({}, {}, {}, 0.10)'.format(*(int(colour[i:i + 2], 16) for i in (1, 3, 5)))


def _image_sizes(survey):
    figure = go.Figure(layout=dict(
        title='Size of images', xaxis=dict(title='width, px', rangemode='tozero'),
        yaxis=dict(title='height, px', rangemode='tozero'), showlegend=True))
    for split in survey.sides:
        entries = [entry for entry in survey.images if split in entry.splits]
        figure.add_scatter(
            x=[entry.size[1] for entry in entries], y=[entry.size[0] for entry in entries], mode='markers', name=split,
            marker=dict(color=SPLIT_COLOURS[split], size=8, opacity=0.7, line=dict(color='white', width=0.5)),
            text=[html.escape(entry.name) for entry in entries], hovertemplate='%{text}<br>%{x} x %{y} px')
    return chart(figure)


def _quantiles(survey, longest, ratio, counts, pixels, annotated):
    mpp = np.array([entry.mpp or np.nan for entry in survey.images])
    names = {0: 'least', 50: 'median', 100: 'most'}
    columns = [names.get(quantile, f'{quantile}%') for quantile in QUANTILES]

    def rows(name, series):
        """Of values (M,) by whose they are; the name of what they measure stands in the first row."""
        series = {of: values for of, values in series.items() if len(values)}
        return [(name if not number else '', of, *((value, f'{value:,.0f}' if value >= 100 else f'{value:.3g}')
                                                   for value in np.percentile(values, QUANTILES).tolist()))
                for number, (of, values) in enumerate(series.items())]

    measures = {'longest side, px': longest, 'longest side, µm': longest * mpp[survey.image], 'area, px²': survey.area,
                'aspect': ratio}
    if not np.isfinite(mpp[survey.image]).all():
        del measures['longest side, µm']
    of_cells = []
    for name, values in measures.items():
        series = {of: values[survey.label == index] for index, of in enumerate(survey.classes)}
        of_cells += rows(name, series | ({'all classes': values} if len(series) > 1 else {}))
    lengths = np.array([max(entry.size) for entry in survey.images])
    of_images = [*rows('cells', {split: counts[inside & annotated] for split, inside in survey.sides.items()}),
                 *rows('cells in 100 x 100 px', {split: (1e4 * counts / pixels)[inside & annotated]
                                                 for split, inside in survey.sides.items()}),
                 *rows('longest side, px', {split: lengths[inside] for split, inside in survey.sides.items()})]
    tables = [table(['of an image', '', *columns], of_images, 'Quantiles of images')]
    return beside(*([table(['of a cell', '', *columns], of_cells, 'Quantiles of cells')] if of_cells else []), *tables)


def colour_section(survey, facts, findings):
    """Colour and stain of the images of each split and each group.

    Args:
        survey (Survey): The data set.
        facts (list[Facts]): Of each of its images.
        findings (dict[str, list[str]]): What is worth knowing is added, by the section's title.

    Returns:
        Section: Of the page.
    """
    stained = sum(fact.stain is not None for fact in facts)
    if 2 * stained > len(facts):
        title, unit, digits, values = 'Optical density', 'mean optical density', 2, [fact.density for fact in facts]
        note = 'Of what is darker than glass. Optical density: 0 is white, 1 lets a tenth of the light through. '
    else:
        title, unit, digits, values = 'Intensity', 'mean intensity, 0 to 255', 0, [fact.intensity for fact in facts]
        note = 'Of all pixels. '
    names = {'grey': page.GREY} if all(fact.grey for fact in facts) else _CHANNELS
    measured = {name: (colour, np.array(values)[:, index]) for index, (name, colour) in enumerate(names.items())}
    charts = [_boxes(survey, title, unit, measured)]
    if stained:
        amounts = np.array([(np.nan, np.nan) if fact.stain is None else fact.stain for fact in facts])
        dyes = {name: (colour, amounts[:, index]) for index, (name, colour) in enumerate(_DYES.items())}
        charts.append(_boxes(survey, 'Stain', 'mean amount, unmixed', dyes))
        measured |= dyes
        note += 'Haematoxylin and eosin as scikit-image unmixes them' + (
            '. ' if stained == len(facts) else f', of the {stained:,} of {len(facts):,} images that look stained so. ')
    else:
        note += 'No image looks stained by haematoxylin and eosin, so that these are left out. '
    # What is trained on comes first.
    rows, known = [], next(iter(survey.sides.values()))
    for split, inside in survey.sides.items():
        medians = {name: _median(values[inside]) for name, (_, values) in measured.items()}
        rows.append((split, int(inside.sum()), *(
            (median, page.number(median, 3 if name in _DYES else digits)) for name, median in medians.items())))
        strange = [name for name, median in medians.items() if not _is_usual(median, measured[name][1][known])]
        if strange:
            findings['Colour'].append(
                f'Images of {split} look unlike those of train in {" and ".join(strange)}: the median one lies outside '
                'of what 90% of the training images have.')
    return Section('Colour', join(table(['median of', 'images', *measured], rows), *charts), note + 'Boxes hold half '
                   'of the images, their line is the median; groups whose boxes lie apart were stained or scanned '
                   'differently.')


def _median(values):
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else float('nan')


def _is_usual(value, others):
    others = others[np.isfinite(others)]
    if len(others) < _ENOUGH or not np.isfinite(value):
        return True
    low, high = np.percentile(others, (5, 95))
    return low <= value <= high


def _boxes(survey, title, unit, measured):
    """A chart of boxes for each split, and beside them for each group."""
    places = [(split, np.flatnonzero(inside)) for split, inside in survey.sides.items()]
    groups = [(html.escape(shorten(name, 18)), np.array(members)) for name, members in survey.groups.items()
              if name != TEST_GROUP]
    if len(groups) > 1:
        # A place without values parts splits from groups.
        places += [('', np.zeros(0, int)), *groups[:_GROUPS]]
        title += f' of splits, and of {_GROUPS} of {len(groups):,} groups' if len(groups) > _GROUPS else ''
    figure = go.Figure(layout=dict(title=title, boxmode='group', boxgap=0.25, boxgroupgap=0.1, yaxis=dict(title=unit),
                                   height=350, showlegend=len(measured) > 1,
                                   margin=dict(t=36), legend=dict(y=1.01, yanchor='bottom')))
    for name, (colour, values) in measured.items():
        of_place = [(number, index) for number, (_, members) in enumerate(places) for index in members.tolist()
                    if np.isfinite(values[index])]
        figure.add_box(x=[number for number, _ in of_place], y=[round(values[index], 4) for _, index in of_place],
                       text=[html.escape(survey.images[index].name) for _, index in of_place], name=name,
                       marker=dict(color=colour, size=4), line=dict(width=1.3), boxpoints='outliers')
    figure.update_xaxes(tickvals=list(range(len(places))), ticktext=[name for name, _ in places], showgrid=False,
                        range=[-0.6, len(places) - 0.4], autotickangles=[0, -30, -60])
    if len(groups) > 1:
        figure.add_vline(len(survey.sides), line=dict(color=page.LIGHT, width=2))
    return chart(figure)
