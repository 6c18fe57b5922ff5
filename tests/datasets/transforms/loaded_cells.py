"""Images and cells as pipelines hold them, after loading."""
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mmdet.structures.bbox import HorizontalBoxes

from cellseg_mm.structures.local_masks import LocalMasks


@st.composite
def canvases(draw, min_count=0, max_side=30):
    """(N, H, W) masks: cut by the border, overlapping, disconnected, of one pixel; none is empty."""
    count, height, width = draw(st.integers(min_count, 5)), draw(st.integers(1, max_side)), draw(
        st.integers(1, max_side))
    masks = np.zeros((count, height, width), np.uint8)
    for mask in masks:
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        part = mask[y:y + draw(st.integers(1, height)), x:x + draw(st.integers(1, width))]
        part[:] = draw(arrays(np.uint8, part.shape, elements=st.integers(0, 1)))
        mask[y, x] = 1
    return masks


def loaded(canvases, labels=None, ignored=None, image=None):
    """What a pipeline holds of an image with these cells; every pixel of the image differs, where none is given."""
    count, *shape = canvases.shape
    masks = LocalMasks.from_bitmaps(canvases)
    if image is None:
        numbers = np.arange(np.prod(shape)).reshape(shape)
        image = np.stack([numbers % 256, numbers // 256, numbers // 65536], -1).astype(np.uint8)
    return {
        'img': image, 'img_shape': tuple(shape), 'gt_masks': masks, 'gt_bboxes': masks.get_bboxes(),
        'gt_bboxes_labels': np.arange(count) if labels is None else np.asarray(labels, np.int64),
        'gt_ignore_flags': np.zeros(count, bool) if ignored is None else np.asarray(ignored, bool)}


def squares(corners, shape, side=4):
    """(N, H, W) masks of squares whose upper left pixels are at these x and y."""
    masks = np.zeros((len(corners), *shape), np.uint8)
    for mask, (x, y) in zip(masks, corners, strict=True):
        mask[y:y + side, x:x + side] = 1
    return masks


def tight_boxes(canvases):
    """X1, y1, x2, y2 of each of N masks, none of them empty."""
    boxes = [(x.min(), y.min(), x.max() + 1, y.max() + 1) for y, x in map(np.nonzero, canvases)]
    return np.float32(boxes).reshape(-1, 4)


def assert_boxes_are_tight(results):
    assert isinstance(results['gt_bboxes'], HorizontalBoxes)
    assert isinstance(results['gt_masks'], LocalMasks)
    np.testing.assert_array_equal(results['gt_bboxes'].tensor, tight_boxes(results['gt_masks'].to_ndarray()))
