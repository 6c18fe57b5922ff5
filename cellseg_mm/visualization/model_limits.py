"""Part of the data report that says what the data ask of a model: how many detections, and anchors of which sizes."""
from itertools import pairwise
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup

from cellseg_mm.datasets.wrappers import pipeline_steps
from cellseg_mm.evaluation.ceiling import ceiling_ap50
from cellseg_mm.evaluation.coco_ap import COCO_CAP
from cellseg_mm.models.anchor_coverage import anchor_sizes, best_ious, resize_factors, suggest_scales
from cellseg_mm.visualization import page
from cellseg_mm.visualization.data_statistics import percent
from cellseg_mm.visualization.overlay import count_of
from cellseg_mm.visualization.page import Section, beside, chart, join, paragraph, table

_TITLE = 'For the model'
_IOUS = {0.3: '#8fbbe0', 0.5: page.ACCENT, 0.7: page.INK}  # and their colours
_COVERED, _GAIN = 0.9, 0.02  # share of cells that need no other anchors; what others have to gain to be worth naming
_MUCH_LOST = 0.95  # best AP50 at COCO's cap, below which that cap must be spoken of
_SIDES = 0, 16, 32, 64, 128, np.inf  # pixels of a cell's longest side, as a model sees it
_NO_CELL = 'There is no cell, so that nothing can be said.'


def model_section(survey, config, findings):
    """What limits average precision before any training has begun.

    Args:
        survey (Survey): The data set.
        config (Config): Of the model.
        findings (dict[str, list[str]]): What is worth knowing is added, by the section's title.

    Returns:
        Section: Of the page.
    """
    say = findings[_TITLE].append
    if tuple(config.classes) != tuple(survey.classes):
        say(f'The config is for the classes {", ".join(config.classes)}: set classes = {tuple(survey.classes)!r}.')
    name = f'For {Path(config.filename).name}. ' if config.filename else ''
    return Section(_TITLE, join(
        Markup('<h3>How many detections an image needs: max_dets</h3>'), *_detections(survey, config, say),
        Markup('<h3>Whether anchors fit the cells</h3>'), *_anchors(survey, config, say)),
        f'{name}What limits average precision before any training has begun.')


def _detections(survey, config, say):
    counts = survey.counts[survey.annotated]
    if not counts.any():
        yield paragraph(_NO_CELL)
        return
    most = int(counts.sum(1).max())
    # A quarter more leaves room for false ones.
    wanted = -(-most * 5 // 400) * 100
    yield paragraph(f'The fullest image holds {count_of(most, "cell")}, and up to {counts.max():,} of one class.')
    pixels = np.array([entry.size[0] * entry.size[1] for entry in survey.images])
    if not survey.annotated.all():
        dense = np.percentile(counts.sum(1) / pixels[survey.annotated], 95)
        expected = int(dense * pixels[~survey.annotated].max())
        wanted = max(wanted, -(-expected // 100) * 100)
        yield paragraph(f'The largest image to test on would hold about {expected:,} if it were as dense as the '
                        'densest 5% of the others.')
    limit = config.max_dets
    if limit < most:
        yield paragraph(f'max_dets = {limit:,} loses cells: set it to {wanted:,} or more.')
        say(f'max_dets = {limit:,} is below the {most:,} cells of the fullest image: set it to {wanted:,} or more.')
    elif limit < wanted:
        yield paragraph(f'max_dets = {limit:,} holds them all, but leaves little room for false ones and for fuller '
                        f'images: {wanted:,} would.')
    else:
        yield paragraph(f'max_dets = {limit:,} is enough.')
    names = {cap: f'{cap:,}' for cap in sorted({COCO_CAP, 300, 500, 1000, limit})}
    names[COCO_CAP] += ', COCOeval by default'
    names[limit] += ', max_dets'
    # With one class, both limits are the same.
    kinds = {'of each class of an image': True, 'of an image': False}
    if len(survey.classes) == 1:
        del kinds['of each class of an image']
    rows = [(name, *(ceiling_ap50(counts, cap, per_class) for per_class in kinds.values()))
            for cap, name in names.items()]
    reached = ceiling_ap50(counts, COCO_CAP, per_class=True)
    if reached < _MUCH_LOST:
        say(f'COCOeval counts {COCO_CAP} detections of each class in an image by default, at which a perfect detector '
            f'has an AP50 of {reached:.2f} here: report AP50_dense, or say which it is.')
    caps = np.unique(np.geomspace(10, max(1.5 * most, 1.2 * limit), 60).round().astype(int)).tolist()
    figure = go.Figure(layout=dict(showlegend=True, xaxis=dict(title='most detections', type='log', dtick=1),
                                   yaxis=dict(title='best AP50', range=[0, 1.03]), height=330))
    for name, per_class in kinds.items():
        figure.add_scatter(x=caps, y=[round(ceiling_ap50(counts, cap, per_class), 4) for cap in caps], name=name,
                           mode='lines', line=dict(color=page.ACCENT, dash='dot' if per_class else 'solid'),
                           hovertemplate='%{x}: %{y:.3f}')
    figure.add_vline(limit, line=dict(color=page.GREY, width=1, dash='dash'))
    # Of a logarithmic axis, annotations take the logarithm.
    figure.add_annotation(x=np.log10(limit), y=0.08, text='max_dets', xanchor='right', showarrow=False)
    yield beside(join(
        table(['most detections', *kinds], rows,
              'The best AP50 that any detector can reach on these images'),
        paragraph('COCOeval limits each class of an image by itself; a model (max_per_img) limits all detections of an '
                  'image, of which each is then as likely to be kept as any other.')), chart(figure))


def _anchors(survey, config, say):
    generator = (config.model.get('rpn_head') or {}).get('anchor_generator')
    anchors = anchor_sizes(generator) if generator else None
    if anchors is None:
        yield paragraph('Left out: this model has no region proposal network with anchors.')
        return
    if not len(survey.image):
        yield paragraph(_NO_CELL)
        return
    dataset = (config.get('test_dataloader') or config.val_dataloader).dataset
    factors = resize_factors([step for _, step in pipeline_steps(dataset)], [entry.size for entry in survey.images])
    factor = np.array([factors[entry.size] for entry in survey.images])
    sizes = survey.box[:, 2:] * factor[survey.image]
    best = best_ious(sizes, anchors)
    yield paragraph(_resizing(factor[survey.annotated].mean(1), say))
    share = float((best >= 0.5).mean())
    yield paragraph(f'{100 * share:.1f}% of the cells have an anchor of IoU 0.5 or more. '
                    + _other_scales(share, sizes, generator, say))
    longest = sizes.max(1)
    parts = [(name, survey.label == index) for index, name in enumerate(survey.classes)]
    parts += [('all classes', np.ones(len(best), bool))] if len(parts) > 1 else []
    parts += [(f'{low} to {high} px' if high < np.inf else f'over {low} px', (longest > low) & (longest <= high))
              for low, high in pairwise(_SIDES)]
    rows = [(name, int(chosen.sum()), *(percent(float((best[chosen] >= iou).mean())) for iou in _IOUS),
             float(np.median(best[chosen]))) for name, chosen in parts if chosen.any()]
    yield beside(join(
        table(['cells', 'number', *(f'IoU ≥ {iou}' for iou in _IOUS), 'median IoU'], rows,
              'Share of the cells that some anchor fits'),
        paragraph('IoU of the box of a cell with the anchor that fits it best, both centred on one point. Sizes are '
                  'longest sides in pixels as the model sees them, after resizing.')),
        _coverage(longest, best, anchors))


def _resizing(factors, say):
    low, high = factors.min(), factors.max()
    if high < 1.01 * low:
        return f'The test pipeline of the config resizes all images by {low:.2f}.'
    if high > 1.5 * low:
        say(f'The config resizes images by {low:.2f} to {high:.2f}, so that cells of one size reach the model in sizes '
            f'up to {high / low:.1f} times apart; Resize with a scale_factor would keep them alike.')
    return (f'The test pipeline of the config resizes images by {low:.2f} to {high:.2f}, the median one by '
            f'{np.median(factors):.2f}.')


def _other_scales(share, sizes, generator, say):
    if share >= _COVERED:
        return 'Its anchors fit.'
    scales, reached = suggest_scales(sizes, generator)
    if reached < share + _GAIN:
        return 'No other scales would fit many more.'
    change = f'scales={scales} in rpn_head.anchor_generator'
    say(f'Anchors fit {100 * share:.0f}% of the cells (IoU 0.5 or more); {change} would fit {100 * reached:.0f}%.')
    return f'With {change} it would be {100 * reached:.1f}%.'


def _coverage(longest, best, anchors):
    """A chart of the share of cells that some anchor fits, by size."""
    longest = np.log10(np.maximum(longest, 1))
    edges = np.linspace(longest.min() - 0.01, longest.max() + 0.01, 36)
    places = np.digitize(longest, edges) - 1
    count = np.bincount(places, minlength=len(edges) - 1)
    there = np.flatnonzero(count)
    middle = (10 ** ((edges[1:] + edges[:-1]) / 2)[there]).round(2)
    figure = go.Figure(layout=dict(
        title='Share of the cells that some anchor fits, by size', showlegend=True,
        xaxis=dict(title='longest side as the model sees it, px', type='log', tickvals=[2**k for k in range(20)]),
        yaxis=dict(title='% of the cells of that size', range=[0, 103])))
    figure.add_scatter(x=middle, y=(100 * count[there] / count.max()).round(2), name='how many cells there are',
                       mode='lines', line=dict(width=0, shape='hvh'), fill='tozeroy', fillcolor=page.LIGHT,
                       customdata=count[there], hovertemplate='%{x:.0f} px: %{customdata:,} cells')
    for iou, colour in _IOUS.items():
        share = np.bincount(places, best >= iou, minlength=len(count))[there] / count[there]
        figure.add_scatter(x=middle, y=(100 * share).round(2), name=f'IoU ≥ {iou}', mode='lines',
                           line=dict(color=colour), hovertemplate='%{x:.0f} px: %{y:.1f}%')
    for side in np.unique(np.sqrt(anchors.prod(1)).round(1)):
        if edges[0] <= np.log10(side) <= edges[-1]:
            figure.add_vline(side, line=dict(color=page.GREY, width=1, dash='dot'))
    return join(chart(figure), paragraph('Dotted: the square anchors.'))
