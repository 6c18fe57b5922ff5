"""How well the anchors of a region proposal network fit the sizes of cells."""
from itertools import combinations

import numpy as np
from mmdet.registry import TASK_UTILS, TRANSFORMS
from mmengine.registry import init_default_scope

from cellseg_mm.errors import UserError

# Steps of a half octave: a finer grid covers no better, as ratios and levels fill in between.
_SCALES = 1, 1.4, 2, 2.8, 4, 5.6, 8, 11, 16


def best_ious(sizes, anchors):
    """IoU of each box with the anchor that fits it best, both centred on one point.

    Args:
        sizes (ndarray): float (N, 2), width and height of boxes.
        anchors (ndarray): float (A, 2), width and height of anchors.

    Returns:
        ndarray: float64 (N,).
    """
    best, areas = np.zeros(len(sizes)), sizes.prod(1)
    for anchor in anchors:
        shared = np.minimum(sizes, anchor).prod(1)
        best = np.maximum(best, shared / (areas + anchor.prod() - shared))
    return best


def anchor_sizes(generator):
    """Width and height of the anchors of all levels.

    Args:
        generator (dict): Config of an `AnchorGenerator`.

    Returns:
        ndarray | None: float64 (A, 2) in pixels of the network's input; None where it has points in place of anchors.

    Raises:
        UserError: If MMDetection cannot build it.
    """
    init_default_scope('mmdet')
    try:
        levels = getattr(TASK_UTILS.build(dict(generator)), 'base_anchors', None)
    except Exception as error:  # MMDetection checks nothing
        raise UserError(f'the anchor_generator of the config cannot be built: {error}') from error
    if levels is None:
        return None
    boxes = np.concatenate([level.numpy() for level in levels]).astype(np.float64)
    return boxes[:, 2:] - boxes[:, :2]


def resize_factors(pipeline, sizes):
    """By how much a pipeline enlarges images: its own transforms are asked.

    Args:
        pipeline (list[dict]): Configs of transforms; those whose type ends in 'Resize' are applied.
        sizes (Iterable[tuple[int, int]]): (height, width) of images in pixels.

    Returns:
        dict[tuple[int, int], tuple[float, float]]: (horizontal, vertical) factor of each size.
    """
    init_default_scope('mmdet')
    transforms = [TRANSFORMS.build(dict(step)) for step in pipeline if str(step['type']).endswith('Resize')]
    factors = {}
    for height, width in set(sizes):
        results = {'img': np.zeros((height, width), np.uint8), 'img_shape': (height, width)}
        for transform in transforms:
            results = transform(results)
        new_height, new_width = results['img'].shape[:2]
        factors[height, width] = new_width / width, new_height / height
    return factors


def suggest_scales(sizes, generator, iou=0.5):
    """The anchor scales, one or two, that cover the most boxes at an IoU.

    Args:
        sizes (ndarray): float (N, 2), width and height of boxes in pixels of the network's input; N of one or more.
        generator (dict): Config of an `AnchorGenerator`; all but its scales is kept.
        iou (float): What counts as covered.

    Returns:
        tuple[list[float], float]: The scales and the share that they cover. Two, which double the anchors, only where
            they gain 2% of the boxes or more; of equally good ones the coarsest.
    """
    base = {key: value for key, value in generator.items() if key not in ('octave_base_scale', 'scales_per_octave')}
    best = {scale: best_ious(sizes, anchor_sizes({**base, 'scales': [scale]})) for scale in _SCALES}
    share = {scales: float((np.maximum.reduce([best[scale] for scale in scales]) >= iou).mean())
             for count in (1, 2) for scales in combinations(_SCALES, count)}
    one, two = (max((scales for scales in share if len(scales) == count), key=lambda scales: (share[scales], scales))
                for count in (1, 2))
    chosen = two if share[two] >= share[one] + 0.02 else one
    return list(chosen), share[chosen]
