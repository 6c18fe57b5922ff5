import mmcv
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet.structures.bbox import bbox_overlaps

from cellseg_mm.errors import UserError
from cellseg_mm.models.anchor_coverage import anchor_sizes, best_ious, resize_factors, suggest_scales

GENERATOR = dict(type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16])
SIDES = st.lists(st.tuples(*[st.floats(0.5, 300)] * 2), min_size=1, max_size=8)


@given(SIDES, SIDES)
def test_it_is_the_iou_of_boxes_around_one_point(sizes, anchors):
    def boxes(sides):
        sides = torch.tensor(sides, dtype=torch.float64)
        return torch.cat([-sides / 2, sides / 2], 1)
    expected = bbox_overlaps(boxes(sizes), boxes(anchors)).max(1).values.numpy()
    np.testing.assert_allclose(best_ious(np.array(sizes), np.array(anchors)), expected, rtol=1e-6)


def test_anchors_are_those_that_mmdetection_builds():
    sizes = anchor_sizes(GENERATOR)
    assert len(sizes) == 9
    np.testing.assert_allclose(sizes[1], [32, 32])
    np.testing.assert_allclose(np.sqrt(sizes.prod(1)), np.repeat([32, 64, 128], 3), rtol=1e-5)
    assert anchor_sizes(dict(type='MlvlPointGenerator', strides=[4, 8])) is None


def test_a_generator_that_cannot_be_built_is_refused_in_one_line():
    with pytest.raises(UserError, match='anchor_generator of the config cannot be built: '):
        anchor_sizes({**GENERATOR, 'scales': 'x'})


@pytest.mark.parametrize('size', [(952, 952), (330, 408), (386, 201), (76, 1000), (1, 1)])
def test_images_are_resized_as_the_pipeline_does_it(size):
    height, width = size
    new_width, new_height = mmcv.rescale_size((width, height), (1333, 800))
    pipeline = [dict(type='LoadTiffImage'), dict(type='Resize', scale=(1333, 800), keep_ratio=True),
                dict(type='PackDetInputs')]
    assert resize_factors(pipeline, [size]) == {size: (new_width / width, new_height / height)}
    assert resize_factors([dict(type='Resize', scale_factor=2.0, keep_ratio=True)], [size]) == {size: (2, 2)}
    assert resize_factors([dict(type='LoadTiffImage')], [size]) == {size: (1, 1)}


def test_the_scales_suggested_fit_cells_that_the_default_misses():
    sizes = np.random.default_rng(0).uniform(7, 12, (500, 2))
    assert (best_ious(sizes, anchor_sizes(GENERATOR)) >= 0.5).mean() < 0.1
    scales, share = suggest_scales(sizes, GENERATOR)
    assert len(scales) == 1
    assert share == (best_ious(sizes, anchor_sizes({**GENERATOR, 'scales': scales})) >= 0.5).mean() > 0.95


def test_two_scales_are_suggested_where_one_leaves_cells_out():
    sizes, one_level = np.repeat([[8.0, 8.0], [60.0, 60.0]], 50, axis=0), {**GENERATOR, 'strides': [4]}
    (small, large), share = suggest_scales(sizes, one_level)
    assert share == 1
    assert 4 * small == pytest.approx(8, rel=0.42)
    assert 4 * large == pytest.approx(60, rel=0.42)


def test_scales_given_by_octaves_are_replaced():
    octaves = dict(type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3, ratios=[1.0], strides=[8])
    assert suggest_scales(np.array([[16.0, 16.0]]), octaves)[1] == 1
