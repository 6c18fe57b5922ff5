import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loaded_cells import assert_boxes_are_tight, canvases, loaded, squares, tight_boxes
from mmdet.datasets.transforms import PackDetInputs, RandomCrop
from mmdet.models.task_modules import MaxIoUAssigner
from mmengine.structures import InstanceData

from cellseg_mm.datasets.transforms.affine import RandomCellAffine
from cellseg_mm.datasets.transforms.crop import RandomCellCrop
from cellseg_mm.errors import UserError
from cellseg_mm.structures.local_masks import LocalMasks

SEED = st.integers(0, 2**32 - 1)
SHAPE = 40, 60
TWO = squares([(3, 5), (50, 30)], SHAPE)  # far apart: no window of 20 x 20 holds pixels of both


def around(canvas, margin, value=0):
    """A canvas with a margin of one value."""
    return np.pad(canvas, [(margin, margin)] * 2, constant_values=value)


def crop(results, seed=0, **options):
    np.random.seed(seed)  # noqa: NPY002 -- as MMEngine seeds
    return RandomCellCrop(**options)(results)


def corner(results):
    """Where a window of an image with different pixels was."""
    blue, green, red = results['img'][0, 0].astype(int).tolist()
    y, x = divmod(blue + 256 * green + 65536 * red, SHAPE[1])
    return x, y


@given(canvases(), st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.floats(0, 1), SEED, st.data())
def test_cells_are_those_of_the_window_cut_out_of_each_full_canvas(masks, width, height, least, anywhere, seed, data):
    count, *shape = masks.shape
    labels = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    crowds = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    before = loaded(masks, labels, crowds)
    after = crop(dict(before), seed, crop_size=(width, height), min_visible=least, prob_anywhere=anywhere)

    x, y = (-after['homography_matrix'][:2, 2]).astype(int)
    rows, columns = slice(y, y + min(height, shape[0])), slice(x, x + min(width, shape[1]))
    np.testing.assert_array_equal(after['img'], before['img'][rows, columns])
    assert after['img_shape'] == after['img'].shape[:2] == (min(height, shape[0]), min(width, shape[1]))
    cut = masks[:, rows, columns]
    kept = cut.any((1, 2)).nonzero()[0]
    np.testing.assert_array_equal(after['gt_masks'].to_ndarray(), cut[kept])
    assert_boxes_are_tight(after)
    np.testing.assert_array_equal(after['gt_bboxes_labels'], np.take(labels, kept))
    assert after['gt_ignore_flags'].tolist() == [
        crowds[i] or bool(cut[i].sum() < least * masks[i].sum()) for i in kept]


@given(canvases(min_count=1), st.integers(1, 40), st.integers(1, 40), st.integers(0, 50), SEED)
def test_a_margin_shows_what_is_around_the_window_and_the_mean_colour_outside(masks, width, height, margin, seed):
    before = loaded(masks)
    window = crop(dict(before), seed, crop_size=(width, height))
    after = crop(dict(before), seed, crop_size=(width, height), margin=margin)

    x, y = (-window['homography_matrix'][:2, 2]).astype(int)
    rows, columns = (slice(first, first + side + 2 * margin) for first, side in zip(
        (y, x), window['img_shape'], strict=True))
    image = before['img'].astype(float)
    channels = [around(channel, margin, channel.mean())[rows, columns] for channel in np.moveaxis(image, -1, 0)]
    np.testing.assert_allclose(after['img'], np.stack(channels, -1), rtol=0, atol=0.5)  # the mean in whole numbers
    assert after['img_shape'] == after['img'].shape[:2] == (
        window['img_shape'][0] + 2 * margin, window['img_shape'][1] + 2 * margin)
    cut = np.stack([around(mask, margin)[rows, columns] for mask in masks])
    np.testing.assert_array_equal(after['gt_masks'].to_ndarray(), cut[cut.any((1, 2))])
    assert_boxes_are_tight(after)
    np.testing.assert_array_equal(after['homography_matrix'], [[1, 0, margin - x], [0, 1, margin - y], [0, 0, 1]])


def test_behind_a_margin_a_turn_shows_cells_at_the_edge_of_the_image_too():
    masks = squares([(0, 0), (56, 0), (0, 36), (56, 36)], SHAPE)  # in the corners
    seen = set()
    for seed in range(60):
        results = crop(loaded(masks), seed, crop_size=(10, 10), margin=8)
        seen.update(RandomCellAffine(180, (1, 1), 0, 0, crop_size=(10, 10))(results)['gt_bboxes_labels'].tolist())
    assert seen == {0, 1, 2, 3}


@given(canvases(min_count=1), st.integers(1, 40), st.integers(1, 40), SEED)
def test_a_window_holds_all_of_a_cell_where_one_fits(masks, width, height, seed):
    x1, y1, x2, y2 = tight_boxes(masks).T
    fits = (x2 - x1 <= width) & (y2 - y1 <= height)
    results = crop(loaded(masks, ignored=~fits), seed, crop_size=(width, height), min_visible=1, prob_anywhere=0)
    assert (~results['gt_ignore_flags']).any() == fits.any()


def test_the_window_is_drawn_uniformly_from_those_that_hold_the_cell():
    masks = squares([(10, 0)], SHAPE)
    corners = [corner(crop(loaded(masks), seed, crop_size=(6, 6), prob_anywhere=0)) for seed in range(600)]
    counts = {place: corners.count(place) for place in corners}
    assert set(counts) == {(x, 0) for x in (8, 9, 10)}  # rows above the image do not exist
    assert min(counts.values()) > 150


def test_of_a_cell_larger_than_the_window_a_part_of_its_box_is_shown():
    masks = squares([(20, 10)], SHAPE, side=20)
    for seed in range(50):
        results = crop(loaded(masks), seed, crop_size=(12, 9), min_visible=0, prob_anywhere=0)
        assert results['gt_masks'].areas.tolist() == [12 * 9]


def test_each_cell_is_as_likely_and_crowded_places_are_seen_more_often():
    masks = squares([(3, 5), (3, 15), (9, 10), (50, 30)], SHAPE)
    lone = sum(crop(loaded(masks), seed, crop_size=(20, 20), prob_anywhere=0)['gt_bboxes_labels'].tolist() == [3]
               for seed in range(400))
    assert 70 < lone < 130


def test_a_cell_is_drawn_with_the_weight_of_its_class():
    def second(seed):
        return crop(loaded(TWO, [0, 2]), seed, crop_size=(20, 20), prob_anywhere=0,
                    class_weights=(1, 5, 3))['gt_bboxes_labels'].tolist() == [2]
    assert 260 < sum(map(second, range(400))) < 340


def test_a_single_rare_cell_is_drawn_as_often_as_its_class():
    common = [(2 + 8 * (n % 4), 2 + 8 * (n // 4)) for n in range(16)]
    masks = squares([*common, (50, 30)], SHAPE)
    rare = sum(crop(loaded(masks, [0] * 16 + [2]), seed, crop_size=(9, 9), prob_anywhere=0, min_visible=0,
                    class_weights=[1, 1, 1])['gt_bboxes_labels'].tolist() == [2] for seed in range(400))
    assert 160 < rare < 240


def test_a_class_of_weight_0_is_never_drawn_but_stays_where_it_is_seen():
    masks = squares([(3, 5), (12, 5)], SHAPE)
    for seed in range(50):
        results = crop(loaded(masks, [1, 0]), seed, crop_size=(14, 10), class_weights=[0, 1], prob_anywhere=0)
        assert 1 in results['gt_bboxes_labels']
    assert crop(loaded(masks, [1, 0]), crop_size=(60, 40), class_weights=[0, 1])['gt_bboxes_labels'].tolist() == [1, 0]


@pytest.mark.parametrize(('masks', 'options'), [
    (TWO, dict(prob_anywhere=1)), (TWO, dict(class_weights=[0, 0, 1])), (TWO[:0], {})],
    ids=['as asked', 'no class of weight', 'no cell'])
def test_windows_lie_anywhere(masks, options):
    corners = np.array([corner(crop(loaded(masks), seed, crop_size=(58, 39), **options)) for seed in range(200)])
    for axis, last in enumerate((2, 1)):
        counts = np.bincount(corners[:, axis])
        assert len(counts) == last + 1
        assert counts.min() > 40


def test_a_share_of_windows_lies_anywhere():
    empty = sum(len(crop(loaded(TWO), seed, crop_size=(6, 6), prob_anywhere=0.5)['gt_masks']) == 0
                for seed in range(400))
    assert 130 < empty < 220  # nearly every window that is placed anywhere


def test_ignored_cells_are_not_drawn():
    for seed in range(30):
        results = crop(loaded(TWO, ignored=[True, False]), seed, crop_size=(20, 20), prob_anywhere=0)
        assert results['gt_bboxes_labels'].tolist() == [1]


def test_a_cell_without_a_pixel_is_neither_drawn_nor_kept():
    masks = np.stack([np.zeros(SHAPE, np.uint8), TWO[1]])
    for seed in range(30):
        results = crop(loaded(masks), seed, crop_size=(20, 20), prob_anywhere=0)
        assert results['gt_bboxes_labels'].tolist() == [1]


def test_an_image_smaller_than_the_window_stays_whole():
    results = crop(loaded(TWO), crop_size=(600, 400))
    np.testing.assert_array_equal(results['gt_masks'].to_ndarray(), TWO)
    np.testing.assert_array_equal(results['img'], loaded(TWO)['img'])
    assert not results['gt_ignore_flags'].any()


def test_the_same_seed_gives_the_same_window():
    corners = [corner(crop(loaded(TWO), seed, crop_size=(20, 20))) for seed in (1, 1, 2, 3)]
    assert corners[0] == corners[1]
    assert len(set(corners)) == 3


def test_steps_before_are_in_the_homography():
    results = crop(crop(loaded(TWO), crop_size=(30, 30)), seed=1, crop_size=(8, 8))
    np.testing.assert_array_equal(-results['homography_matrix'][:2, 2], corner(results))
    assert results['homography_matrix'].dtype == RandomCrop((40, 30))(loaded(TWO))['homography_matrix'].dtype


def test_cells_cut_too_far_are_packed_as_ignored_which_counts_only_with_an_ignore_iof_thr():
    masks = squares([(0, 0), (18, 0)], (20, 22))
    results = crop(loaded(masks), crop_size=(19, 20), min_visible=0.5, class_weights=[1, 0], prob_anywhere=0, seed=3)
    assert results['homography_matrix'][0, 2] == 0, 'the first cell alone is whole'
    packed = PackDetInputs(meta_keys=())(results)['data_samples']
    assert [packed.gt_instances.labels.tolist(), packed.ignored_instances.labels.tolist()] == [[0], [1]]
    assert [len(part.masks) for part in (packed.gt_instances, packed.ignored_instances)] == [1, 1]
    truth, ignored = (InstanceData(bboxes=part.bboxes.tensor, labels=part.labels)
                      for part in (packed.gt_instances, packed.ignored_instances))
    prior = InstanceData(priors=torch.tensor([[18., 0, 19, 4]]))
    for threshold, assigned in ((-1, 0), (0.5, -1)):
        assigner = MaxIoUAssigner(0.7, 0.3, match_low_quality=False, ignore_iof_thr=threshold)
        assert assigner.assign(prior, truth, ignored).gt_inds.tolist() == [assigned]


def test_a_window_of_2000_cells_takes_milliseconds():
    columns, rows = np.meshgrid(np.arange(50), np.arange(40))
    boxes = np.stack([columns.ravel() * 20, rows.ravel() * 20, np.full(2000, 15), np.full(2000, 15)], 1)
    masks = LocalMasks(np.ones(2000 * 225, np.uint8), boxes, 1000, 1000)
    results = {'img': np.zeros((1000, 1000, 3), np.uint8), 'gt_masks': masks, 'gt_bboxes': masks.get_bboxes(),
               'gt_bboxes_labels': np.zeros(2000, int), 'gt_ignore_flags': np.zeros(2000, bool)}
    crop(dict(results), crop_size=(256, 256))
    start = time.process_time()
    for seed in range(10):
        crop(dict(results), seed, crop_size=(256, 256), class_weights=[1])
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(('options', 'message'), [
    (dict(crop_size=(0, 8)), 'crop_size'), (dict(crop_size=(8, 8, 3)), 'crop_size'),
    (dict(crop_size=(0.5, 0.5)), 'crop_size'), (dict(crop_size=256), 'crop_size'),
    (dict(crop_size=(True, 5)), 'crop_size'), (dict(min_visible=np.nan), 'min_visible'),
    (dict(min_visible=1.5), 'min_visible'),
    (dict(prob_anywhere=-1), 'prob_anywhere'), (dict(class_weights=[0, 0]), 'class_weights'),
    (dict(class_weights=[1, -1]), 'class_weights'), (dict(class_weights=[1, np.nan]), 'class_weights'),
    (dict(class_weights=[]), 'class_weights'), (dict(class_weights=1), 'class_weights'),
    (dict(margin=-1), 'margin'), (dict(margin=1.5), 'margin')])
def test_arguments_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(UserError, match=message):
        RandomCellCrop(**{'crop_size': (8, 8), **options})


def test_a_class_without_a_weight_is_named():
    with pytest.raises(UserError, match='class_weights has 1 numbers, and there is a cell of class 1'):
        crop(loaded(TWO), crop_size=(8, 8), class_weights=[1])
