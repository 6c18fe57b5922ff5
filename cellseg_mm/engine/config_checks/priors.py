"""Whether cells have a place in the model: an anchor of their size, a point inside them, a square of their own."""
import numpy as np

from cellseg_mm.engine.config_checks.finding import note, warning
from cellseg_mm.engine.config_checks.subject import dicts
from cellseg_mm.models.anchor_coverage import anchor_sizes, best_ious, suggest_scales

_COVERED, _GAIN = 0.9, 0.02  # share of cells that are enough; what other scales have to gain to be worth naming
_SHARED = 0.05  # share of cells without a square of their own that is worth naming
_SAMPLE = 50_000  # cells; more say no more


def check(subject):
    """Yield findings; there are none without data."""
    if subject.cells is None or not len(subject.cells.image):
        return
    model = subject.config.model
    for head in ('rpn_head', 'bbox_head'):
        generator = (model.get(head) or {}).get('anchor_generator') if isinstance(model.get(head), dict) else None
        if generator:
            yield from _anchors(subject, f'model.{head}.anchor_generator', generator)
    yield from _points(subject)
    for place, node in dicts(model, 'model'):
        if 'num_grids' in node and 'scale_ranges' in node:
            yield from _grids(subject, place, node)


def _anchors(subject, place, generator):
    anchors = anchor_sizes(generator)
    if anchors is None:
        return
    sizes = subject.seen_sizes[::1 + len(subject.seen_sizes) // _SAMPLE]
    share = float((best_ious(sizes, anchors) >= 0.5).mean())
    if share >= _COVERED:
        return
    scales, reached = suggest_scales(sizes, generator)
    if reached >= share + _GAIN:
        octaves = ', octave_base_scale=None, scales_per_octave=None' if 'octave_base_scale' in generator else ''
        yield warning(place, f'fits {100 * share:.0f}% of the cells, by an anchor of IoU 0.5 or more',
                      f'set scales={scales}{octaves}, which would fit {100 * reached:.0f}%')
    else:
        yield note(place, f'fits {100 * share:.0f}% of the cells, by an anchor of IoU 0.5 or more, and no '
                   'other scales would fit many more')


def _points(subject):
    """A cell is learned where a point of the finest level lies inside its box, as heads without anchors have it."""
    generator = getattr(getattr(subject.model, 'bbox_head', None), 'prior_generator', None)
    if generator is None or hasattr(generator, 'base_anchors') or not hasattr(generator, 'strides'):
        return
    stride = min(generator.strides)
    # Points lie `stride` apart, and cells anywhere between them.
    share = float(np.minimum(subject.seen_sizes / np.array(stride), 1).prod(1).mean())
    if share < _COVERED:
        yield warning('model.bbox_head', f'has points {min(stride)} pixels apart, of which {100 * share:.0f}% of '
                      'the cells can expect one inside', 'enlarge the images in all pipelines by '
                      'Resize(scale_factor=2), or begin at a finer level of the neck')


def _grids(subject, place, node):
    """SOLO has one square of a grid over all that it sees for a cell, by its centre (Wang et al. 2020)."""
    views, centres = subject.views
    side = np.sqrt(subject.seen_sizes.prod(1))
    found, fits = np.zeros(len(side), bool), np.zeros(len(side), bool)
    for (low, high), count in zip(node['scale_ranges'], node['num_grids'], strict=False):
        inside = np.flatnonzero((side >= low) & (side <= high))
        squares = np.minimum((centres[inside] * count).astype(int), count - 1)
        _, first = np.unique(np.column_stack([views[inside], squares]), axis=0, return_index=True)
        fits[inside], found[inside[first]] = True, True
    lost = float((fits & ~found).mean())
    if lost > _SHARED:
        seen = 'tile' if subject.config.model.get('tiles') else 'image'
        yield warning(f'{place}.num_grids', f'is {list(node["num_grids"])} for a whole {seen}, in which '
                      f'{100 * lost:.0f}% of the cells have their centre in the square of another',
                      'raise num_grids, or let the model see less at once by model.tiles')
    if not fits.all() and (~fits).mean() > _SHARED:
        yield warning(f'{place}.scale_ranges', f'leaves out {100 * float((~fits).mean()):.0f}% of the cells',
                      'let them begin at 1 and end above the largest cell')
