"""Masks enlarged on shared canvases are those enlarged on a canvas each, to the last bit."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.utils import aligned_bilinear
from torch.nn import functional

from cellseg_mm.models import chunks as chunking
from cellseg_mm.models.dense_heads.enlarged_masks import enlarged

HEIGHT, WIDTH = 40, 30
THRESHOLD = 0.4


def canvases(random, count, largest):
    """Values within boxes, of which some touch, overlap or are empty, over values that are nowhere set."""
    made = random.random((count, HEIGHT, WIDTH), np.float32) * THRESHOLD
    for canvas in made:
        (x, y), (w, h) = random.integers(0, (WIDTH, HEIGHT)), random.integers(0, largest, 2)
        canvas[y:y + h, x:x + w] = random.random(canvas[y:y + h, x:x + w].shape)
    return torch.from_numpy(made)


def enlarges(stride, seen, shape):
    """Ways of the models: interpolation to the network's input, whose padding is cut off, and to the image."""
    def twice(values):
        values = functional.interpolate(values[None], scale_factor=stride, mode='bilinear')
        return functional.interpolate(values[..., :seen[0], :seen[1]], shape, mode='bilinear')[0] > THRESHOLD

    def aligned(values):
        values = aligned_bilinear(values[None], stride)[..., :seen[0], :seen[1]]
        return functional.interpolate(values, shape, mode='bilinear')[0] > THRESHOLD

    return twice, aligned


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 30), largest=st.sampled_from([2, 6, 40]),
       stride=st.sampled_from([2, 4, 8]), values=st.sampled_from([2**24, 2**13]), data=st.data())
def test_masks_are_those_of_a_canvas_each(seed, count, largest, stride, values, data):
    coarse = canvases(np.random.default_rng(seed), count, largest)
    seen = [side * stride - data.draw(st.integers(0, 2 * stride)) for side in (HEIGHT, WIDTH)]
    shape = [max(round(side * data.draw(st.floats(0.3, 1.7))), 1) for side in seen]
    step = [side / whole / stride for side, whole in zip(seen, shape, strict=True)]
    for enlarge in enlarges(stride, seen, shape):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chunking, '_VALUES', values)
            found = enlarged(lambda part: coarse[part], count, HEIGHT * WIDTH, enlarge, step, shape, THRESHOLD)
        assert (found.height, found.width) == tuple(shape)
        assert np.array_equal(found.to_ndarray(), enlarge(coarse).numpy())


def test_masks_that_lie_apart_share_a_canvas():
    coarse = torch.zeros(12, HEIGHT, WIDTH)
    for number, canvas in enumerate(coarse):
        row, column = 10 * (number // 3), 10 * (number % 3)
        canvas[row + 3:row + 6, column + 3:column + 6] = 1
    twice, _ = enlarges(4, (160, 120), (160, 120))
    sizes = []
    found = enlarged(lambda part: coarse[part], 12, 1, lambda values: sizes.append(len(values)) or twice(values),
                     (1 / 4, 1 / 4), (160, 120), THRESHOLD)
    assert sizes == [1]
    assert (found.areas > 100).all()
