import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import cellseg_mm  # noqa: F401 (provides the compiled ops that MMDetection's masks look for)

# isort: split
from mmdet.structures.mask import BitmapMasks
from torchvision.ops import roi_align

from cellseg_mm.structures.roi_crop import crop_and_resize, sample_points


@st.composite
def scenes(draw):
    """Bitmaps in their boxes on a canvas, which they touch the borders of, or are all of."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 999)))
    boxes = []
    for _ in range(draw(st.integers(1, 5))):
        w, h = draw(st.integers(0, width)), draw(st.integers(0, height))
        x, y = draw(st.integers(0, width - w)), draw(st.integers(0, height - h))
        boxes.append((x, y, w, h) if w and h else (0, 0, 0, 0))
    boxes = np.array(boxes, np.int32)
    pixels = (random.random(boxes[:, 2:].prod(1).sum()) < 0.7).astype(np.uint8)
    return pixels, boxes, height, width


SQUARE = np.ones(16, np.uint8), np.int32([(0, 0, 4, 4)])

# Quarters put samples exactly where the image's border ends.
COORDINATES = st.one_of(st.integers(-40, 240).map(lambda quarters: quarters / 4), st.floats(-12, 60, width=32))
EXTENTS = st.one_of(st.sampled_from([0, 0.25, 7, 28]), st.floats(0, 1, width=32), st.floats(1, 90, width=32))
ROIS = st.tuples(COORDINATES, COORDINATES, EXTENTS, EXTENTS).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


def canvases(pixels, boxes, height, width):
    masks = np.zeros((len(boxes), height, width), np.uint8)
    for mask, (x, y, w, h), end in zip(masks, boxes, boxes[:, 2:].prod(1).cumsum(), strict=True):
        mask[y:y + h, x:x + w] = pixels[end - w * h:end].reshape(h, w)
    return masks


def on_the_canvas(scene, rois, inds, out_shape):
    numbered = np.hstack([np.asarray(inds, np.float32)[:, None], rois])
    return roi_align(torch.from_numpy(canvases(*scene)).float()[:, None], torch.from_numpy(numbered), out_shape, 1.0, 0,
                     True)[:, 0].numpy()


@settings(max_examples=200, deadline=None)
@given(scenes(), st.lists(st.tuples(ROIS, st.integers(0, 4)), min_size=1, max_size=8),
       st.sampled_from([(28, 28), (7, 14), (1, 1), (3, 2)]))
def test_averages_are_those_of_roi_align_on_the_canvas(scene, rois, out_shape):
    inds = np.array([i % len(scene[1]) for _, i in rois])
    rois = np.array([roi for roi, _ in rois], np.float32)
    pixels, boxes, height, width = scene
    crops = crop_and_resize(pixels, boxes, rois, inds, height, width, out_shape)
    assert crops.dtype == np.float32
    np.testing.assert_allclose(crops, on_the_canvas(scene, rois, inds, out_shape), rtol=0, atol=1e-5)


def test_targets_are_those_of_bitmap_masks():
    random = np.random.default_rng(3)
    boxes = np.hstack([random.integers(0, 70, (40, 2)), random.integers(5, 30, (40, 2))]).astype(np.int32)
    pixels = (random.random(boxes[:, 2:].prod(1).sum()) < 0.6).astype(np.uint8)
    inds = random.integers(0, 40, 200)
    corners = boxes[inds, :2]
    rois = np.hstack([corners, corners + boxes[inds, 2:]]) + random.normal(0, 3, (200, 4))
    rois = rois.clip(0, 100).astype(np.float32)
    averages = crop_and_resize(pixels, boxes, rois, inds, 100, 100, (28, 28))
    stock = BitmapMasks(canvases(pixels, boxes, 100, 100), 100, 100).crop_and_resize(rois, (28, 28), inds).to_ndarray()
    differing = (averages >= 0.5) != stock
    assert stock.any()
    assert np.abs(averages[differing] - 0.5).max(initial=0) < 1e-4


@pytest.mark.parametrize('roi', [(-1, -1, 27, 27), (3, 3, 31, 31.5), (-300, -2500, 300, 250), (5, 5, 5, 5),
                                 (30, 30, 31, 31), (0.5, 0.5, 20.5, 20.5)])
def test_odd_rois_are_as_on_the_canvas(roi):
    scene = np.ones(600, np.uint8), np.int32([(0, 0, 20, 30)]), 30, 20
    rois = np.float32([roi])
    crops = crop_and_resize(scene[0], scene[1], rois, [0], 30, 20, (28, 28))
    np.testing.assert_allclose(crops, on_the_canvas(scene, rois, [0], (28, 28)), rtol=0, atol=1e-5)


@pytest.mark.parametrize('roi', [(np.nan, 0, 9, 9), (0, 0, np.inf, 9), (-np.inf, 0, np.inf, 9), (-np.inf, 0, 3, 9),
                                 (3, 2, 1, 3), (3, 3, 1, 1), (2, 2, 2, 2)])
def test_rois_without_extent_are_empty(roi):
    assert not crop_and_resize(*SQUARE, np.float32([roi]), [0], 4, 4, (7, 7)).any()


def test_a_roi_beyond_all_measure_takes_no_time():
    crops = crop_and_resize(*SQUARE, np.float32([(-1e9, -1e9, 1e9, 1e9)]), [0], 4, 4, (28, 28))
    assert crops.max() < 1e-6


def test_an_image_too_large_for_a_canvas_is_no_trouble():
    box = np.int32([(10**6, 10**6, 16, 16)])
    roi = np.float32([(10**6, 10**6, 10**6 + 16, 10**6 + 16)])
    assert (crop_and_resize(np.ones(256, np.uint8), box, roi, [0], 2**30, 2**30, (14, 14))[0, 1:-1, 1:-1] == 1).all()


def test_nothing_is_cropped_for_no_roi():
    none = np.zeros((0, 4), np.float32)
    assert crop_and_resize(*SQUARE, none, [], 4, 4, (7, 9)).shape == (0, 7, 9)
    assert crop_and_resize(np.zeros(0, np.uint8), none.astype(np.int32), none, [], 4, 4, (7, 9)).shape == (0, 7, 9)


@pytest.mark.parametrize('ind', [1, -1])
def test_an_instance_that_is_not_there_is_refused(ind):
    with pytest.raises(IndexError, match='there are 1 instances'):
        crop_and_resize(*SQUARE, np.float32([(0, 0, 4, 4)]), [ind], 4, 4, (7, 7))


@pytest.mark.parametrize('inds', [[], [0], [0, 0, 0]])
def test_each_place_needs_its_instance(inds):
    with pytest.raises(ValueError, match=f'{len(inds)} instances are asked for at 2 places'):
        crop_and_resize(*SQUARE, np.zeros((2, 4), np.float32), inds, 4, 4, (7, 7))
    with pytest.raises(ValueError, match=f'{len(inds)} instances are asked for at 2 places'):
        sample_points(*SQUARE, np.zeros((2, 5, 2), np.float32), inds)


@settings(max_examples=100, deadline=None)
@given(scenes(), st.lists(st.tuples(COORDINATES, COORDINATES), min_size=1, max_size=20), st.integers(0, 4))
def test_points_are_interpolated_as_on_the_canvas(scene, points, ind):
    pixels, boxes, height, width = scene
    points = np.float32([points])
    ind = ind % len(boxes)
    grid = torch.from_numpy(points / np.float32([width, height]) * 2 - 1)[:, None]
    expected = F.grid_sample(torch.from_numpy(canvases(*scene)[ind]).float()[None, None], grid, align_corners=False)
    np.testing.assert_allclose(sample_points(pixels, boxes, points, [ind]), expected[:, 0, 0], rtol=0, atol=1e-4)


def test_points_that_are_nowhere_are_outside():
    points = np.float32([[(np.nan, 1), (np.inf, 1), (1e30, -1e30), (1, 1)]])
    assert sample_points(*SQUARE, points, [0]).tolist() == [[0, 0, 0, 1]]
