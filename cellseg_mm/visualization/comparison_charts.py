"""Charts of a comparison of models, as plotly figures for `page.chart`."""
from html import escape
from itertools import pairwise, product

import numpy as np
import plotly.graph_objects as go

from cellseg_mm.visualization.comparison_columns import MAIN, bounds, metric, shortened, title_of
from cellseg_mm.visualization.overlay import LINE_COLOURS
from cellseg_mm.visualization.page import ACCENT, GREY, INK, css_colours

_OFF_FRONT = '#9aa4ae'
_LABEL = 28  # characters
_WIDE = 8  # speeds that differ by more than this factor are drawn on a logarithmic axis
_HEIGHT = 440
# Plots of these widths, a sheet of paper's and a screen's, hold labels that do not overlap; in pixels.
_PLOT_WIDTHS, _PLOT_HEIGHT = (600, 1100), 350
_LETTER, _LINE, _GAP = 7.2, 17, 9  # size of a letter and of its line, and what is left free around a point


def pareto_front(speeds, scores):
    """Which models no other one beats: none is as fast and as good, and better in one of the two.

    Args:
        speeds (Sequence[float]): (N,), higher is better.
        scores (Sequence[float]): (N,), higher is better.

    Returns:
        list[int]: Indices, by ascending speed.
    """
    front, best = [], -np.inf
    for index in sorted(range(len(speeds)), key=lambda i: (-speeds[i], -scores[i])):
        alike = front and (speeds[index], scores[index]) == (speeds[front[-1]], scores[front[-1]])
        if alike or scores[index] > best:
            front.append(index)
            best = scores[index]
    return front[::-1]


def speed_and_quality(rows):
    """AP50 with its interval over images/s, the Pareto front, and each model's name by its point.

    Args:
        rows (list[dict]): Of a comparison; all with AP50 and a speed.

    Returns:
        plotly.graph_objects.Figure: The chart.
    """
    speeds, scores = [row['cost']['images_per_second'] for row in rows], [metric(row, MAIN) for row in rows]
    ends = [[score if end is None else end for end in bounds(row, MAIN)]
            for row, score in zip(rows, scores, strict=True)]
    front = pareto_front(speeds, scores)
    names = [escape(title_of(row)) for row in rows]
    logarithmic = max(speeds) > _WIDE * min(speeds)
    x = np.log10(speeds) if logarithmic else np.array(speeds, float)
    x_range = _padded(x, 0.08) if logarithmic else [0, 1.12 * x.max()]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    y_range = [max(0, low - 0.12 * (high - low) - 0.01), min(1, high + 0.12 * (high - low) + 0.01)]
    line = go.Scatter(x=[speeds[i] for i in front], y=[scores[i] for i in front], mode='lines', name='Pareto front',
                      line=dict(color=ACCENT, width=1.6, dash='dash', shape='vh'), hoverinfo='skip')
    points = go.Scatter(
        x=speeds, y=scores, mode='markers', customdata=names, showlegend=False,
        marker=dict(size=11, line=dict(width=1, color='white'),
                    color=[ACCENT if i in front else _OFF_FRONT for i in range(len(rows))]),
        error_y=dict(type='data', symmetric=False, color='#b9c1c9', thickness=1.5, width=4,
                     array=[high - y for (_, high), y in zip(ends, scores, strict=True)],
                     arrayminus=[y - low for (low, _), y in zip(ends, scores, strict=True)]),
        hovertemplate='<b>%{customdata}</b><br>AP50 %{y:.3f}, %{x:.3g} images/s<extra></extra>')
    figure = go.Figure([points, line])
    labels = [shortened(title_of(row), _LABEL) for row in rows]
    share = [np.interp(place, limits, [0, 1]) for place, limits in ((x, x_range), (scores, y_range))]
    lines = [(share[0][i], share[0][i], *np.interp(ends[i], y_range, [0, 1])) for i in range(len(rows))]
    for before, after in pairwise(front):
        (left, right), (low, high) = ([axis[i] for i in (before, after)] for axis in share)
        lines += [(left, left, high, low), (left, right, high, high)]
    for index, (shift_x, shift_y) in enumerate(place_labels(*share, [len(label) for label in labels], lines)):
        # Annotations on a logarithmic axis are placed by the logarithm.
        figure.add_annotation(
            x=float(x[index]), y=scores[index], ax=shift_x, ay=-shift_y, text=escape(labels[index]), showarrow=True,
            arrowhead=0, arrowwidth=1, standoff=7, bgcolor='rgba(255,255,255,0.7)', borderpad=0,
            font=dict(size=13, color=ACCENT if index in front else INK),
            arrowcolor='#b9c1c9' if abs(shift_y) > 2 * _LINE else 'rgba(0,0,0,0)')
    figure.update_xaxes(title='images/s' + ', logarithmic' * logarithmic, range=x_range, hoverformat='.3g')
    if logarithmic:
        ticks = [float(f'{digit}e{power}') for power in range(-6, 7) for digit in (1, 2, 5)]
        figure.update_xaxes(type='log', tickvals=ticks, ticktext=[f'{tick:g}' for tick in ticks])
    figure.update_yaxes(title='AP50, dense cap', range=y_range)
    return figure.update_layout(title='AP50 with its 95% interval over speed', height=_HEIGHT, showlegend=True)


def place_labels(x, y, lengths, lines=()):
    """Where to write the names of points so that they cover neither points nor each other, nor lines if possible.

    Args:
        x (Sequence[float]): (N,) places of the points from left, 0, to right, 1.
        y (Sequence[float]): (N,) from bottom, 0, to top, 1.
        lengths (Sequence[int]): (N,) characters of each name.
        lines (Sequence[tuple]): (x1, x2, y1, y2) of each upright or level line.

    Returns:
        list[tuple[float, float]]: (N,) from the point to the middle of its name, to the right and up, in pixels.
    """
    scales = np.array([(width, _PLOT_HEIGHT) for width in _PLOT_WIDTHS], float)
    centres = np.stack([x, y], 1)[:, None] * scales  # (N, widths, 2)
    taken, shifts = [(centre, _GAP) for centre in centres], [None] * len(lengths)
    ends = np.array(lines, float).reshape(-1, 2, 2).transpose(2, 0, 1)[:, :, None] * scales  # (2, lines, widths, 2)
    strokes = list(zip(ends.mean(0), np.abs(ends[1] - ends[0]) / 2, strict=True))
    # From the top, since names evade upwards at first.
    for index in sorted(range(len(lengths)), key=lambda i: (-y[i], x[i])):
        half = np.array([lengths[index] * _LETTER / 2 + 2, _LINE / 2])
        side = half[0] + _GAP + 2
        near = [(side, 0), (-side, 0), (0, _LINE), (0, -_LINE)]
        far = [(across * side, up * rank * _LINE)
               for rank, up, across in product(range(1, 12), (1, -1), (1, -1, 0))]

        def cost(shift, centre=centres[index], half=half):
            middle = centre + np.array(shift)
            outside = (np.abs(middle - scales / 2) + half > scales / 2).any(1).sum()
            covered, crossed = (sum((np.abs(middle - other) < half + size).all(1).any() for other, size in others)
                                for others in (taken, strokes))
            return 4 * covered + 8 * outside + crossed + abs(shift[1]) / _LINE / 2

        shifts[index] = min(near + far, key=cost)  # the first of equal ones
        taken.append((centres[index] + np.array(shifts[index]), half))
    return shifts


def ap50_of_classes(rows, classes):
    """AP50 of each class as dots and their mean with its interval, model by model.

    Args:
        rows (list[dict]): Of a comparison; all with AP50.
        classes (Sequence[str]): Names of the classes; dots of one class alone are left out.

    Returns:
        plotly.graph_objects.Figure: The chart.
    """
    places = np.arange(len(rows))
    names = [escape(title_of(row)) for row in rows]
    figure = go.Figure()
    shown = classes if len(classes) > 1 else []
    for name, colour in zip(shown, css_colours(len(shown)), strict=True):
        figure.add_scatter(
            x=[metric(row, f'{MAIN}/{name}') for row in rows], y=places - 0.13, mode='markers', name=escape(name),
            marker=dict(color=colour, size=11, line=dict(width=1, color=INK)), customdata=names,
            hovertemplate='<b>%{customdata}</b><br>AP50 %{x:.3f}<extra>' + escape(name) + '</extra>')
    means = [metric(row, MAIN) for row in rows]
    ends = [[mean if end is None else end for end in bounds(row, MAIN)] for row, mean in zip(rows, means, strict=True)]
    figure.add_scatter(
        x=means, y=places + 0.2 * bool(shown), mode='markers', customdata=names,
        name='mean of the classes, with its 95% interval' if shown else 'AP50, with its 95% interval',
        marker=dict(color=INK, size=9, symbol='diamond'),
        error_x=dict(type='data', symmetric=False, color=GREY, thickness=1.8, width=4,
                     array=[high - mean for (_, high), mean in zip(ends, means, strict=True)],
                     arrayminus=[mean - low for (low, _), mean in zip(ends, means, strict=True)]),
        hovertemplate='<b>%{customdata}</b><br>AP50 %{x:.3f}<extra></extra>')
    figure.update_yaxes(tickvals=places, ticktext=[escape(shortened(title_of(row), _LABEL)) for row in rows],
                        range=[len(rows) - 0.4, -0.6])
    figure.update_xaxes(title='AP50, dense cap', rangemode='tozero')
    return figure.update_layout(title='AP50' + ' of each class' * bool(shown), showlegend=True,
                                height=130 + 42 * len(rows))


def trainings(curves):
    """AP50 of the validation images over iterations.

    Args:
        curves (dict[str, tuple]): By model (x, y), lists of iterations and AP50.

    Returns:
        plotly.graph_objects.Figure: The chart.
    """
    figure = go.Figure()
    for index, (name, (x, y)) in enumerate(curves.items()):
        again, colour = divmod(index, len(LINE_COLOURS))
        figure.add_scatter(x=x, y=y, mode='lines+markers', name=escape(shortened(name, _LABEL)), marker_size=5,
                           line=dict(color=LINE_COLOURS[colour], width=2.2, dash=('solid', 'dash', 'dot')[again % 3]),
                           hovertemplate='%{y:.3f}')
    figure.update_xaxes(title='iterations', rangemode='tozero', hoverformat=',d', tickformat=',d')
    figure.update_yaxes(title='AP50, dense cap', rangemode='tozero')
    # Some four names fill a line of the legend.
    return figure.update_layout(title='AP50 of the validation images in training', hovermode='x unified',
                                showlegend=True, height=380 + 20 * (len(curves) // 4))


def _padded(values, share):
    low, high = float(values.min()), float(values.max())
    room = share * (high - low) or 0.1
    return [low - room, high + room]
