"""What transforms ask of their arguments and of what they are given."""
import math
from numbers import Real

import numpy as np

from cellseg_mm.errors import UserError
from cellseg_mm.structures.local_masks import LocalMasks


def is_number(value, least=0):
    """Whether a value is a finite number, not below another."""
    return isinstance(value, Real) and math.isfinite(value) and value >= least


def is_count(value, least=0):
    """Whether a value is a whole number, not below another."""
    return type(value) is int and value >= least


def is_range(value):
    """Whether a value is a pair of finite numbers from 0 on, the lower first."""
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(is_number, value)) and value[0] <= value[1]


def check_share(name, value):
    """Raise a UserError if a value is not from 0 to 1."""
    if not (is_number(value) and value <= 1):
        raise UserError(f'{name} is a share from 0 to 1, not {value}')


def check_size(name, size):
    """Raise a UserError if a transform's `crop_size` is not (width, height) in whole pixels."""
    if not (isinstance(size, (list, tuple)) and len(size) == 2 and all(is_count(side, 1) for side in size)):
        raise UserError(f'{name}: crop_size is (width, height) in whole pixels, not {size}')


def check_weights(name, weights):
    """Return a transform's `class_weights` as float (C,), or raise a UserError if nothing can be drawn by them."""
    if not (isinstance(weights, (list, tuple, np.ndarray)) and all(map(is_number, weights)) and any(weights)):
        raise UserError(f'{name}: class_weights are numbers from 0 on, one at least above it, not {weights}')
    return np.array(weights, float)


def check_cells(transform, results):
    """Raise a UserError if a transform that moves cells is given what it would leave behind, or no masks."""
    name = type(transform).__name__
    if 'gt_seg_map' in results:
        raise UserError(f'{name} changes cells alone, and would leave the semantic map as it is: load none, with '
                        'LoadCellAnnotations(with_seg=False)')
    if not isinstance(results.get('gt_masks'), LocalMasks):
        raise UserError(f'{name} needs the masks of cells: put LoadCellAnnotations(with_mask=True) before it')


def check_image(transform, results):
    """Raise a UserError if a transform that counts on uint8 (H, W, 3) is given another image."""
    image = results['img']
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f'{type(transform).__name__} needs uint8 (H, W, 3), not {image.dtype} {image.shape}: put it '
                        'before what makes numbers with fractions, as PhotoMetricDistortion does')
