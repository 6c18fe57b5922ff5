import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cellseg_mm  # noqa: F401 (provides the compiled ops that importing mmdet.models needs)

# isort: split
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

from cellseg_mm.structures.paste import paste

# Quarters meet the centres and the edges of pixels exactly.
COORDINATES = st.one_of(st.integers(-60, 200).map(lambda quarters: quarters / 4), st.floats(-15, 50, width=32))
EXTENTS = st.one_of(st.sampled_from([0, 0.25, 1, 30]), st.floats(2.0**-20, 1.5, width=32), st.floats(1, 60, width=32))
BOXES = st.tuples(COORDINATES, COORDINATES, EXTENTS, EXTENTS).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


def some_masks(seed, *shape):
    """Probabilities of three kinds: noise, blobs, and certainty, which is exactly 0 or 1."""
    noise = np.random.default_rng(seed).random(shape, dtype=np.float32)
    y, x = np.mgrid[-1:1:shape[1] * 1j, -1:1:shape[2] * 1j]
    blob = 1 / (1 + np.exp(8 * (np.hypot(y, x) - noise[:, :1, :1])))
    return np.where(np.arange(shape[0])[:, None, None] % 3 == 0, noise,
                    np.where(np.arange(shape[0])[:, None, None] % 3 == 1, blob, noise > 0.4)).astype(np.float32)


def canvases(pixels, boxes, height, width):
    masks = np.zeros((len(boxes), height, width), np.uint8)
    ends = boxes[:, 2:].prod(1).cumsum()
    for mask, (x, y, w, h), end in zip(masks, boxes, ends, strict=True):
        assert min(x, y, w, h) >= 0
        assert x + w <= width
        assert y + h <= height
        mask[y:y + h, x:x + w] = pixels[end - w * h:end].reshape(h, w)
    assert len(pixels) == (ends[-1] if len(ends) else 0)
    return masks


def stock_values(probability, box, height, width, skip_empty):
    """What MMDetection compares with the threshold, on the whole canvas."""
    canvas = np.zeros((height, width), np.float32)
    x, y = np.maximum(np.floor(box[:2]) - 1, 0)
    right, lower = np.minimum(np.ceil(box[2:]) + 1, (width, height))
    if skip_empty and (right <= x or lower <= y):
        return canvas  # MMDetection itself fails on some of these.
    masks, boxes = torch.from_numpy(probability)[None, None], torch.from_numpy(box)[None]
    values, slices = _do_paste_mask(masks, boxes, height, width, skip_empty)
    canvas[slices] = values[0].numpy()
    return canvas


def assert_pasted_as_stock_does(probabilities, boxes, height, width, threshold, skip_empty=True):
    pixels, windows = paste(probabilities, boxes, height, width, threshold)
    assert pixels.dtype == np.uint8
    assert windows.dtype == np.int32
    for ours, probability, box in zip(canvases(pixels, windows, height, width), probabilities, boxes, strict=True):
        values = stock_values(probability, box, height, width, skip_empty)
        differing = ours != (values >= threshold)
        assert np.abs(values[differing] - threshold).max(initial=0) < 1e-4


@settings(max_examples=150, deadline=None)
@given(st.lists(BOXES, min_size=1, max_size=6), st.integers(0, 99),
       st.sampled_from([(28, 28), (7, 5), (1, 1), (2, 14)]), st.integers(1, 40), st.integers(1, 40),
       st.sampled_from([0.5, 0.05, 0.3, 0.731, 1.0]))
def test_each_pixel_is_as_mmdetection_sets_it(boxes, seed, shape, height, width, threshold):
    masks = some_masks(seed, len(boxes), *shape)
    assert_pasted_as_stock_does(masks, np.array(boxes, np.float32), height, width, threshold)


@settings(max_examples=50, deadline=None)
@given(st.lists(BOXES.filter(lambda box: box[2] - box[0] >= 1e-3 and box[3] - box[1] >= 1e-3), min_size=1, max_size=6),
       st.integers(0, 99), st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.5, 0.731]))
def test_from_one_half_on_nothing_is_lost_outside_the_box(boxes, seed, height, width, threshold):
    masks = some_masks(seed, len(boxes), 14, 14)
    assert_pasted_as_stock_does(masks, np.array(boxes, np.float32), height, width, threshold, skip_empty=False)


@pytest.mark.parametrize('box', [(20, 10, 5, 3), (5.3, 9, 5.2, 30), (5.5, 9, 5.5, 30), (5.25, 5.25, 5.25, 5.25),
                                 (-1e30, -1e30, 1e30, 1e30), (3, 3, 1e30, 9), (4, 4, 4 + 1e-6, 30)])
def test_odd_boxes_are_as_in_mmdetection(box):
    assert_pasted_as_stock_does(some_masks(1, 1, 28, 28), np.float32([box]), 40, 30, 0.5)


@pytest.mark.parametrize('box', [(np.nan, 0, 9, 9), (0, 0, np.inf, 9), (-np.inf, 0, np.inf, 9), (40, 0, 50, 9),
                                 (-9, 0, -3, 9), (0, 1e30, 9, 2e30)])
def test_boxes_that_are_nowhere_have_no_pixels(box):
    pixels, windows = paste(np.ones((2, 4, 4), np.float32), np.float32([box, (2, 2, 6, 6)]), 20, 20, 0.5)
    masks = canvases(pixels, windows, 20, 20)
    assert masks[0].sum() == 0
    assert masks[1].sum() == 16


def test_below_one_half_the_rim_outside_the_box_is_set():
    pixels, windows = paste(np.ones((1, 2, 2), np.float32), np.float32([(4, 4, 8, 8)]), 20, 20, 0.2)
    assert canvases(pixels, windows, 20, 20)[0, 5].nonzero()[0].tolist() == [3, 4, 5, 6, 7, 8]


def test_an_image_too_large_for_a_canvas_is_no_trouble():
    side = 2**30
    pixels, windows = paste(np.ones((1, 28, 28), np.float32), np.float32([(64, 64, 96, 96)]), side, side, 0.5)
    assert pixels.sum() == 32 * 32
    assert len(pixels) == windows[0, 2:].prod() < 36**2


def test_nothing_is_pasted_for_no_instance():
    pixels, windows = paste(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), 20, 20, 0.5)
    assert pixels.shape == (0, )
    assert windows.shape == (0, 4)


def test_the_rows_of_a_transposed_tensor_are_read_in_its_own_order():
    masks = some_masks(2, 1, 9, 9)
    boxes = np.float32([(1, 1, 8, 8)])
    turned = paste(masks.transpose(0, 2, 1), boxes, 10, 10, 0.5)[0].reshape(9, 9)
    assert np.array_equal(turned, paste(masks, boxes, 10, 10, 0.5)[0].reshape(9, 9).T)


@pytest.mark.parametrize('threshold', [0, -1, 1.01, float('nan')])
def test_thresholds_that_no_probability_can_cross_are_refused(threshold):
    with pytest.raises(ValueError, match='has to be above 0 and at most 1'):
        paste(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), 20, 20, threshold)


@pytest.mark.parametrize('count', [0, 1, 3])
def test_each_box_needs_its_mask(count):
    with pytest.raises(ValueError, match=f'{count} masks for 2 boxes'):
        paste(np.ones((count, 28, 28), np.float32), np.float32([(0, 0, 9, 9)] * 2), 20, 20, 0.5)
