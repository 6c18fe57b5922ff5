"""A page about a cross-validation: each fold, their mean and spread, and all together."""
from html import escape
from pathlib import Path

import plotly.graph_objects as go
from markupsafe import Markup

from cellseg_mm.evaluation.out_of_fold import NOTES, extent
from cellseg_mm.io.files import write_text
from cellseg_mm.visualization.page import (
    ACCENT,
    INK,
    Section,
    chart,
    join,
    number,
    paragraph,
    render_page,
    table,
    tiles,
)

_POOLED = '#d55e00'
_TILES = 'AP50_dense', 'AP50_cap100', 'AP_dense', 'bPQ', 'AJI', 'F1'


def write_page(path, rows, alone, pooled, trainings):
    """Write the page.

    Args:
        path (str | Path): The HTML file.
        rows (list[Row]): Of `summarise`.
        alone (list[dict]): Evaluations of the folds.
        pooled (dict): Of all images together.
        trainings (list[tuple[Path, int | None]]): Each fold's folder, beside the file, and the epoch chosen there.
    """
    path = Path(path)
    subtitle = f'{len(alone)} folds, {extent(pooled)}'
    glance = tiles([(row.title, number(row.pooled), f'95%: {number(row.interval[0])} to {number(row.interval[1])}')
                    for row in rows if row.name in _TILES])
    note = 'All images together, each predicted by the model that did not train on its group.'
    write_text(path, render_page(f'Cross-validation: {path.resolve().parent.name}', subtitle, [
        Section('At a glance', glance, note),
        Section('Metrics', join(chart(dots(rows)), _metrics(rows))),
        Section('Folds', _folds(alone, trainings)),
        Section('How to read this', join(*map(paragraph, NOTES)))]))


def dots(rows):
    """A dot for each fold, a stroke for their mean, and below the pooled value with its interval, metric by metric.

    Args:
        rows (list[Row]): Of `summarise`.

    Returns:
        plotly.graph_objects.Figure: The chart.
    """
    titles = [escape(row.title) for row in rows]
    count, places = len(rows[0].folds), list(range(len(rows)))

    def markers(name, x, y, texts, **look):
        return go.Scatter(x=x, y=y, customdata=texts, name=name, mode='markers', marker=look,
                          hovertemplate='%{customdata}: %{x:.3f}<extra></extra>')

    folds = markers('fold', [value for row in rows for value in row.folds],
                    [place for place in places for _ in range(count)],
                    [f'{title}, fold{fold}' for title in titles for fold in range(count)],
                    color=ACCENT, size=10, opacity=0.75, line=dict(width=1, color='white'))
    mean = markers('mean of the folds', [row.mean for row in rows], places, [f'{title}, mean' for title in titles],
                   symbol='line-ns', size=20, line=dict(width=3, color=INK))
    pooled = markers('pooled, with its 95% interval', [row.pooled for row in rows], [place + 0.3 for place in places],
                     [f'{title}, pooled' for title in titles], symbol='diamond', color=_POOLED, size=9)
    pooled.error_x = dict(type='data', symmetric=False, color=_POOLED, thickness=2, width=4,
                          array=[row.interval[1] - row.pooled for row in rows],
                          arrayminus=[row.pooled - row.interval[0] for row in rows])
    figure = go.Figure([mean, folds, pooled])
    figure.update_yaxes(tickvals=places, ticktext=titles, range=[len(rows) - 0.4, -0.6])
    figure.update_xaxes(range=[-0.01, 1.01], dtick=0.1, tickformat='.1f')
    return figure.update_layout(title='Folds, their mean, and all images pooled', height=90 + 42 * len(rows),
                                legend=dict(y=-0.08))


def _metrics(rows):
    headings = [f'fold{fold}' for fold in range(len(rows[0].folds))]
    return table(['metric', *headings, 'mean', 'SD', 'pooled', '95% interval'],
                 [[row.title, *row.folds, row.mean, row.deviation, row.pooled,
                   f'{number(row.interval[0])} to {number(row.interval[1])}'] for row in rows])


def _folds(alone, trainings):
    classes = alone[0]['classes']
    link = Markup('<a href="{}">{}</a>')
    rows = [[link.format(Path(training.name, 'report.html').as_posix(), training.name),
             *(evaluation[name] for name in ('images', 'groups', 'cells')), epoch,
             *(evaluation['thresholds'][name] for name in classes)]
            for evaluation, (training, epoch) in zip(alone, trainings, strict=True)]
    return table(['report of', 'images', 'groups', 'true cells', 'epoch', *(f'threshold {name}' for name in classes)],
                 rows, 'What each fold validated on, the epoch chosen there, and the thresholds from the other folds')
