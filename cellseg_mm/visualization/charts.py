"""Charts of a training and its evaluation, as plotly figures for `page.chart`.

Names may hold anything: they are escaped, since plotly takes texts for HTML of its own.
"""
from html import escape

import numpy as np
import plotly.graph_objects as go

from cellseg_mm.visualization.overlay import LINE_COLOURS
from cellseg_mm.visualization.page import ACCENT, GREY, INK, css_colours

RIGHT, CONFUSED, WRONG = '#0b62a8', '#e69f00', '#c9ced4'
_VALIDATION = '#d55e00'
_MARKED = 'lines+markers'


def losses(training, validation, unit, best=None):
    """Training and validation loss.

    Args:
        training (tuple | None): (x, y) of the training loss, lists of finite numbers.
        validation (tuple | None): The same of the validation loss; its minimum is ringed.
        unit (str): What x counts.
        best (float | None): x of the best AP50, which is marked.

    Returns:
        plotly.graph_objects.Figure: The chart.
    """
    figure = go.Figure()
    if training:
        figure.add_trace(_line(*training, 'training', INK))
    if validation:
        figure.add_trace(_line(*validation, 'validation', _VALIDATION))
        least = int(np.argmin(validation[1]))
        figure.add_scatter(x=[validation[0][least]], y=[validation[1][least]], mode='markers', showlegend=False,
                           hoverinfo='skip', marker=dict(size=13, color='rgba(0,0,0,0)',
                                                         line=dict(width=2, color=_VALIDATION)))
    return _over_time(figure, 'Loss', unit, best)


def loss_parts(training, validation, unit):
    """What the losses are made of: training solid, validation dashed.

    Args:
        training (dict[str, tuple]): (x, y) of each part.
        validation (dict[str, tuple]): The same of validation.
        unit (str): What x counts.

    Returns:
        plotly.graph_objects.Figure: The chart.
    """
    figure = go.Figure()
    for number, name in enumerate(dict.fromkeys([*training, *validation])):
        colour = LINE_COLOURS[number % len(LINE_COLOURS)]
        if name in training:
            figure.add_trace(_line(*training[name], name.replace('_', ' '), colour, legendgroup=name))
        if name in validation:
            figure.add_trace(_line(*validation[name], f'{name.replace("_", " ")}, validation', colour, dash='dash',
                                   legendgroup=name, showlegend=name not in training))
    return _over_time(figure, 'Parts of the loss' + (': training solid, validation dashed' if validation else ''), unit)


def ap50(scores, classes, unit, best=None):
    """AP50 of the validation images while the training went on.

    Args:
        scores (dict[str, tuple]): (x, y) of 'AP50_dense', 'AP50_cap100' and 'AP50_dense/<class>'.
        classes (Sequence[str]): Names of the classes.
        unit (str): What x counts.
        best (float | None): x of the best AP50, which is marked.

    Returns:
        plotly.graph_objects.Figure: The chart.
    """
    figure = go.Figure()
    for name, colour in zip(classes, css_colours(len(classes)), strict=True):
        if (key := f'AP50_dense/{name}') in scores:
            figure.add_trace(_line(*scores[key], name, colour))
    for key, name, dash in (('AP50_cap100', 'mean, cap 100', 'dot'), ('AP50_dense', 'mean, dense cap', 'solid')):
        if key in scores:
            figure.add_trace(_line(*scores[key], name, INK, dash=dash))
    figure.update_yaxes(rangemode='tozero')
    # Three names fill a line of the legend.
    figure.update_layout(height=360 + 20 * max(0, len(figure.data) // 3 - 2))
    return _over_time(figure, 'AP50 on the validation images', unit, best)


def learning_rate(x, y):
    """The learning rate at each iteration; on a logarithmic scale where it spans much."""
    figure = go.Figure(go.Scatter(x=x, y=y, mode='lines', line=dict(color=ACCENT, width=2)))
    rates = np.array(y, float)
    spans_much = rates.min() > 0 and rates.max() > 100 * rates.min()
    figure.update_yaxes(type='log' if spans_much else 'linear', exponentformat='power', tickformat='.1e')
    figure.update_yaxes(**({'dtick': 1} if spans_much else {'rangemode': 'tozero'}))
    return _over_time(figure, 'Learning rate', 'iteration')


def confusion(matrix, classes):
    """Counts and shares of each row: which classes are taken for which.

    Args:
        matrix (Sequence[Sequence[int]]): (C + 1, C + 1), as of `evaluation.confusion.confusion_matrix`.
        classes (Sequence[str]): C names.

    Returns:
        plotly.graph_objects.Figure: The chart.
    """
    counts = np.array(matrix, float)
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, where=totals > 0, out=np.zeros_like(counts))
    texts = [[f'{int(count):,}<br>{share:.0%}' if total else f'{int(count):,}'
              for count, share in zip(row, row_shares, strict=True)]
             for row, row_shares, total in zip(counts, shares, totals[:, 0], strict=True)]
    texts[-1][-1], shares[-1, -1] = '', np.nan
    names = list(map(escape, classes))
    figure = go.Figure(go.Heatmap(
        x=[*names, '<i>missed</i>'], y=[*names, '<i>spurious</i>'], z=shares, text=texts, texttemplate='%{text}',
        zmin=0, zmax=1, xgap=2, ygap=2, showscale=False, textfont=dict(color=INK),
        colorscale=[[0, '#f4f6f8'], [1, '#74aedd']], hoverongaps=False,
        hovertemplate='true: %{y}<br>predicted: %{x}<br>%{text}<extra></extra>'))
    quiet = dict(type='category', showgrid=False, ticks='', showline=False)
    figure.update_xaxes(title='predicted', side='top', **quiet)
    figure.update_yaxes(title='true', autorange='reversed', **quiet)
    return figure.update_layout(title='Confusion of classes', height=110 + 56 * len(counts), margin=dict(b=16))


def fates(matrix, classes):
    """What became of true cells and of predictions, class by class, from the same matrix as `confusion`."""
    counts = np.array(matrix, float)
    right, missed, spurious = counts.diagonal()[:-1], counts[:-1, -1], counts[-1, :-1]
    true, predicted = counts[:-1].sum(1), counts[:, :-1].sum(0)
    # True cells and predictions of a class below each other.
    labels = [f'{escape(name)}, {what}' for name in classes for what in ('true', 'predicted')]
    totals, rights, lost = (np.ravel(both, 'F') for both in ((true, predicted), (right, right), (missed, spurious)))
    figure = go.Figure()
    for name, values, colour in (('right class', rights, RIGHT), ('confused', totals - rights - lost, CONFUSED),
                                 ('missed or spurious', lost, WRONG)):
        figure.add_bar(
            y=labels, x=np.divide(values, totals, where=totals > 0, out=np.zeros(len(totals))), orientation='h',
            name=name, marker_color=colour, customdata=values,
            hovertemplate=f'%{{y}}: %{{x:.1%}} {name} (%{{customdata:,}})<extra></extra>')
    figure.update_xaxes(tickformat='.0%', range=[0, 1.001], dtick=0.25)
    figure.update_yaxes(autorange='reversed', type='category', showgrid=False, ticks='')
    return figure.update_layout(title='Right and wrong, by class', barmode='stack', bargap=0.3, margin_r=28,
                                legend_traceorder='normal', height=110 + 56 * len(counts))


def precision_recall(curves, metrics):
    """Precision at each recall, class by class.

    Args:
        curves (dict[str, dict]): {class: {'precision': [101]}} at recall 0, 0.01 to 1.
        metrics (dict): Has the 'AP50_dense/<class>' to write beside the names.

    Returns:
        plotly.graph_objects.Figure: The chart.
    """
    figure = go.Figure()
    for (name, curve), colour in zip(curves.items(), css_colours(len(curves)), strict=True):
        # Beyond the recall that is reached, precision is 0 by definition, and no line is drawn.
        reached = sum(is_known(value) and value > 0 for value in curve['precision'])
        if reached:
            score = metrics.get(f'AP50_dense/{name}')
            label = escape(name) + (f' {score:.3f}' if is_known(score) else '')
            figure.add_scatter(
                x=np.linspace(0, 1, len(curve['precision']))[:reached], y=curve['precision'][:reached], name=label,
                mode='lines', line=dict(color=colour, width=2.5),
                hovertemplate='recall %{x:.2f}, precision %{y:.3f}<extra>' + label + '</extra>')
    figure.update_xaxes(title='recall', range=[0, 1.005])
    figure.update_yaxes(title='precision', range=[0, 1.02])
    return figure.update_layout(title='Precision and recall at mask IoU 0.5, dense cap', showlegend=True)


def calibration(bins):
    """How often predictions of a score are right, above how many there are.

    Args:
        bins (dict): 'confidence', 'precision' and 'count' of each bin.

    Returns:
        plotly.graph_objects.Figure: The chart.
    """
    number = len(bins['count'])
    known = [index for index in range(number) if bins['count'][index] and is_known(bins['precision'][index])]
    confidence, precision, count = ([bins[key][index] for index in known]
                                    for key in ('confidence', 'precision', 'count'))
    figure = go.Figure([
        go.Scatter(x=[0, 1], y=[0, 1], mode='lines', line=dict(color=GREY, width=1.2, dash='dot'), hoverinfo='skip',
                   name='score = share right'),
        go.Scatter(x=confidence, y=precision, mode=_MARKED, line=dict(color=ACCENT, width=2.5), marker_size=7,
                   customdata=count, name='share right',
                   hovertemplate='mean score %{x:.3f}: %{y:.1%} of %{customdata:,} right<extra></extra>'),
        go.Bar(x=(np.arange(number) + 0.5) / number, y=bins['count'], width=0.9 / number, marker_color='#b9c1c9',
               yaxis='y2', name='predictions', hovertemplate='%{y:,} predictions<extra></extra>')])
    return figure.update_layout(
        title='Calibration: are scores as good as they claim?',
        xaxis=dict(title='score', range=[-0.01, 1.01], anchor='y2'),
        yaxis=dict(title='share right', domain=[0.32, 1], range=[-0.03, 1.03]),
        yaxis2=dict(title='count', domain=[0, 0.2], nticks=3, tickformat='~s'))


def errors(costs):
    """The AP50 that each type of error costs.

    Args:
        costs (dict[str, float]): {type: AP50}, as of `evaluation.error_breakdown.error_breakdown`.

    Returns:
        plotly.graph_objects.Figure: The chart.
    """
    names = list(costs)
    values = [value if is_known(value) else None for value in costs.values()]
    figure = go.Figure(go.Bar(
        x=values, y=names, orientation='h', marker_color=ACCENT, textposition='outside', cliponaxis=False,
        text=['' if value is None else f'{value:.3f}' for value in values],
        hovertemplate='%{y}: %{x:.4f}<extra></extra>'))
    figure.update_xaxes(title='AP50 lost to it', rangemode='tozero')
    figure.update_yaxes(autorange='reversed', type='category', showgrid=False, ticks='')
    return figure.update_layout(title='What AP50 is lost to', height=70 + 40 * len(costs), bargap=0.35,
                                margin_r=48)


def found_by_size(diameters, statuses):
    """How many true cells of each size were found.

    Args:
        diameters (ndarray): float (N,), of a circle of a cell's area, in pixels.
        statuses (Sequence[str]): N of 'found', 'confused', 'missed'.

    Returns:
        plotly.graph_objects.Figure: The chart.
    """
    statuses = np.array(statuses)
    top = np.quantile(diameters, 0.995)
    # Whole pixels a bin, some 20 bins; the few cells beyond are in the last one.
    step = max(1, int(np.ceil(top / 20)))
    edges = np.arange(0, top + step, step)
    counts = {status: np.histogram(np.minimum(diameters[statuses == status], edges[-1]), edges)[0]
              for status in ('found', 'confused', 'missed')}
    total = sum(counts.values())
    figure = go.Figure()
    ranges = [f'{low:.0f} to {low + step:.0f} px' for low in edges[:-1]]
    ranges[-1] = f'{edges[-2]:.0f} px or more'
    for (status, count), name, colour in zip(counts.items(), ('found', 'found as another class', 'missed'),
                                             (RIGHT, CONFUSED, WRONG), strict=True):
        share = np.divide(count, total, where=total > 0, out=np.zeros(len(total)))
        figure.add_bar(x=edges[:-1] + step / 2, y=count, width=0.9 * step, name=name, marker_color=colour,
                       customdata=share, text=ranges, textposition='none',
                       hovertemplate=f'%{{text}}: %{{y:,}} {status}, %{{customdata:.0%}}<extra></extra>')
    for side, text in ((32, 'COCO: small | medium'), (96, 'medium | large')):
        # COCO's limits are areas: that of a square of this side is that of a circle of this diameter.
        limit = 2 * side / np.sqrt(np.pi)
        if limit < edges[-1]:
            _mark(figure, limit, text)
    figure.update_xaxes(title='diameter of a circle of the same area, px', range=[0, edges[-1]], tick0=0,
                        dtick=step * -(-len(edges) // 12))
    figure.update_yaxes(title='true cells')
    return figure.update_layout(title='True cells found, by size', barmode='stack', legend_traceorder='normal')


def is_known(value):
    """Whether a figure is there: neither None nor NaN nor infinite."""
    return isinstance(value, (int, float)) and bool(np.isfinite(value))


def _line(x, y, name, colour, dash='solid', **options):
    return go.Scatter(x=x, y=y, mode=_MARKED if len(x) < 60 else 'lines', name=escape(name), marker_size=5,
                      line=dict(color=colour, width=2.2, dash=dash), hovertemplate='%{y:.4g}', **options)


def _over_time(figure, title, unit, best=None):
    longest = max((np.max(trace.x) for trace in figure.data if len(trace.x)), default=0)
    figure.update_xaxes(title=unit, hoverformat='d', **({'dtick': 1} if longest <= 16 else {'tickformat': ',d'}))
    if best is not None:
        _mark(figure, best, 'best AP50')
    return figure.update_layout(title=title, hovermode='x unified', showlegend=len(figure.data) > 1)


def _mark(figure, x, text):
    figure.add_vline(x, line=dict(color=GREY, width=1.2, dash='dot'))
    figure.add_annotation(x=x, y=1, yref='paper', yanchor='bottom', text=text, showarrow=False,
                          font=dict(size=12, color=GREY))
    figure.update_layout(margin_t=24)
