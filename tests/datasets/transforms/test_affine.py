import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loaded_cells import assert_boxes_are_tight, canvases, loaded, squares
from mmdet.datasets.transforms import PackDetInputs

from cellseg_mm.datasets.transforms.affine import RandomCellAffine, RandomQuarterTurn
from cellseg_mm.errors import UserError

SEED = st.integers(0, 2**32 - 1)
STILL = dict(max_rotation=0, scale_range=(1, 1), max_shear=0, max_translation=0)


def run(transform, results, seed=0):
    np.random.seed(seed)  # noqa: NPY002 -- as MMEngine seeds
    return transform(results)


def turn(array, quarters, mirrored):
    """By NumPy, along the axes 0 and 1."""
    return np.rot90(array[:, ::-1] if mirrored else array, quarters)


SYMMETRIES = [(quarters, mirrored) for quarters in range(4) for mirrored in (False, True)]


def symmetry(image, turned):
    """Which one made `turned` of an image of different pixels."""
    return [way for way in SYMMETRIES if np.array_equal(turn(image, *way), turned)]


@given(canvases(), SEED)
def test_image_masks_and_boxes_are_turned_alike(masks, seed):
    before = loaded(masks)
    after = run(RandomQuarterTurn(), loaded(masks), seed)
    ways = symmetry(before['img'], after['img'])
    assert ways, 'the image is none of the 8'
    assert after['img_shape'] == after['img'].shape[:2]
    turned = turn(masks.transpose(1, 2, 0), *ways[0]).transpose(2, 0, 1)
    np.testing.assert_array_equal(after['gt_masks'].to_ndarray(), turned)
    assert_boxes_are_tight(after)
    for key in ('gt_bboxes_labels', 'gt_ignore_flags'):
        np.testing.assert_array_equal(after[key], before[key])


def test_each_of_the_8_symmetries_is_as_likely():
    masks = squares([(1, 2)], (9, 14))
    image = loaded(masks)['img']
    ways = [symmetry(image, run(RandomQuarterTurn(), loaded(masks), seed)['img']) for seed in range(800)]
    counts = [ways.count([way]) for way in SYMMETRIES]
    assert sum(counts) == 800
    assert min(counts) > 60


def test_boxes_between_pixels_are_turned_and_not_measured_anew():
    results = loaded(squares([(1, 2)], (9, 14)))
    results['gt_bboxes'].tensor[:] += 0.25
    after = run(RandomQuarterTurn(), results, 3)
    assert (after['gt_bboxes'].tensor % 1).unique().tolist() in ([0.25], [0.75], [0.25, 0.75])
    sides = after['gt_bboxes'].tensor[:, 2:] - after['gt_bboxes'].tensor[:, :2]
    assert sides.tolist() == [[4, 4]]


@pytest.mark.parametrize('transform', [RandomQuarterTurn(), RandomCellAffine(180, (0.5, 1.5), 10, 0.1)])
def test_the_homography_carries_the_middle_of_a_cell_to_where_it_is(transform):
    masks = squares([(65, 70)], (160, 190), side=31)
    for seed in range(12):
        after = run(transform, run(RandomQuarterTurn(), loaded(masks), seed), seed + 100)
        x, y, scale = after['homography_matrix'] @ (80.5, 85.5, 1)
        assert scale == 1
        moved = after['gt_masks'].to_ndarray()[0].nonzero()
        np.testing.assert_allclose([x, y], [np.mean(moved[1]) + 0.5, np.mean(moved[0]) + 0.5], atol=0.1)


@pytest.mark.parametrize('shape', [(1, 9), (9, 1), (1, 1)])
def test_an_image_of_one_pixel_width_or_height_can_be_packed_whatever_its_turn(shape):
    for seed in range(20):
        turned = run(RandomQuarterTurn(), loaded(squares([(0, 0)], shape)), seed)
        packed = PackDetInputs(meta_keys=())(dict(turned))['inputs']
        np.testing.assert_array_equal(packed.permute(1, 2, 0), turned['img'])


@pytest.mark.parametrize(('side', 'options'), [
    (150, dict(max_shear=0, max_translation=0, scale_range=(1, 1))),
    (150 * 1.25, dict(max_shear=0, max_translation=0)), (200 * 1.25, {})])
def test_nothing_comes_in_from_outside_behind_a_crop_as_large_as_told(side, options):
    transform = RandomCellAffine(180, **options)
    np.random.seed(0)  # noqa: NPY002
    first, last = (side - 100) / 2, (side + 100) / 2
    corners = np.transpose([(x, y, 1) for x in (first, last) for y in (first, last)])
    for _ in range(3000):
        x, y, _ = np.linalg.inv(transform._draw_matrix(side, side)) @ corners
        assert min(x.min(), y.min()) >= 0
        assert max(x.max(), y.max()) <= side


@given(canvases(max_side=40), st.floats(0, 180), st.floats(0.5, 2), st.floats(0, 30), st.floats(0, 1), SEED)
def test_cells_are_those_of_each_full_canvas_warped_as_the_image(masks, rotation, scale, shear, translation, seed):
    before = loaded(masks)
    transform = RandomCellAffine(rotation, (min(scale, 1), max(scale, 1)), shear, translation, min_visible=0)
    after = run(transform, dict(before), seed)
    height, width = masks.shape[1:]
    warp = pixel_matrix(run(lambda shape: transform._draw_matrix(*shape), (height, width), seed))
    np.testing.assert_array_equal(after['img'], cv2.warpAffine(
        before['img'], warp, (width, height), borderValue=cv2.mean(before['img'])))
    covered = np.array([cv2.warpAffine(mask * np.float32(1), warp, (width, height)) for mask in masks])
    covered = covered.reshape(masks.shape)  # also of no cell
    kept = after['gt_bboxes_labels']
    assert list(kept) == sorted(kept)
    found = np.zeros(masks.shape, bool)
    found[kept] = after['gt_masks'].to_ndarray()
    # OpenCV interpolates between 32 places in a pixel, which it rounds otherwise in a part than in the whole.
    assert found[covered > 0.56].all()
    assert not found[covered < 0.44].any()
    assert len(after['gt_ignore_flags']) == len(kept)
    assert not after['gt_ignore_flags'].any()
    assert_boxes_are_tight(after)


@pytest.mark.parametrize('size', [(30, 20), (31, 200), (1, 1)])
def test_the_middle_alone_is_the_middle_of_all(size):
    masks = squares([(3, 5), (20, 30), (50, 30), (35, 2)], (40, 60))
    options = dict(max_rotation=180, max_shear=10, min_visible=0)
    whole, part = (run(RandomCellAffine(**options, crop_size=crop), loaded(masks), 3) for crop in (None, size))
    width, height = np.minimum(size, (60, 40))
    x, y = (60 - width) // 2, (40 - height) // 2
    window = np.s_[y:y + height, x:x + width]
    assert part['img_shape'] == part['img'].shape[:2] == (height, width)
    # OpenCV may round to the next of 32 places in a pixel.
    np.testing.assert_allclose(part['img'].astype(int), whole['img'][window], atol=256 / 32 + 1)
    cut = whole['gt_masks'].to_ndarray()[:, *window]
    kept = cut.any((1, 2))
    np.testing.assert_array_equal(part['gt_masks'].to_ndarray(), cut[kept])
    np.testing.assert_array_equal(part['gt_bboxes_labels'], whole['gt_bboxes_labels'][kept])
    np.testing.assert_allclose(part['homography_matrix'] @ (7, 8, 1),
                               whole['homography_matrix'] @ (7, 8, 1) - (x, y, 0), atol=1e-4)
    assert_boxes_are_tight(part)


def pixel_matrix(matrix):
    half = np.float64([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    return (np.linalg.inv(half) @ matrix @ half)[:2]


@pytest.mark.parametrize('seed', range(5))
def test_the_mask_of_a_drawn_cell_is_where_its_colour_is(seed):
    cell = cv2.ellipse(np.zeros((80, 100), np.uint8), (60, 35), (17, 9), 30, 0, 360, 1, -1)
    image = np.where(cell[..., None] > 0, np.uint8([200, 40, 120]), np.uint8([0, 240, 120]))
    after = run(RandomCellAffine(180, (0.7, 1.4), 20, 0.05), loaded(cell[None], image=image), seed)
    blue, mask = after['img'][..., 0], after['gt_masks'].to_ndarray()[0]
    assert mask[blue > 112].all()
    assert not mask[blue < 88].any()
    assert mask.sum() > 150


def test_an_affine_that_may_change_nothing_changes_nothing():
    masks = squares([(3, 5), (50, 30)], (40, 60))
    before, after = loaded(masks), run(RandomCellAffine(**STILL), loaded(masks))
    np.testing.assert_array_equal(after['img'], before['img'])
    np.testing.assert_array_equal(after['gt_masks'].to_ndarray(), masks)
    np.testing.assert_array_equal(after['homography_matrix'], np.eye(3))


def test_what_comes_in_from_outside_has_the_mean_colour_and_no_cell():
    image = np.zeros((40, 60, 3), np.uint8)
    image[:20] = 100, 0, 200
    after = run(RandomCellAffine(**{**STILL, 'scale_range': (0.5, 0.5)}),
                loaded(squares([(0, 0)], (40, 60), side=40), image=image))
    assert after['img'][0, 0].tolist() == [50, 0, 100]
    assert after['gt_masks'].boxes.tolist() == [[15, 10, 20, 20]]


def test_cells_cut_too_far_are_ignored_and_those_outside_dropped():
    masks = squares([(5, 16), (10, 16), (46, 16), (51, 16), (28, 6), (28, 18), (28, 30)], (40, 60))
    zoom = RandomCellAffine(**{**STILL, 'scale_range': (1.7, 1.7)}, min_visible=0.5)
    after = run(zoom, loaded(masks))  # shows the columns from 12.4 to 47.6, the rows from 8.2 to 31.8
    assert after['gt_bboxes_labels'].tolist() == [1, 2, 4, 5, 6]
    assert after['gt_ignore_flags'].tolist() == [True, True, True, False, True]
    zoom.min_visible = 0.3
    assert not run(zoom, loaded(masks))['gt_ignore_flags'].any()


def test_a_cell_all_on_the_canvas_is_whole_however_small():
    masks = squares([(x, 14) for x in range(4, 56, 4)], (30, 60), side=2)
    after = run(RandomCellAffine(max_rotation=5, scale_range=(0.6, 0.9), max_translation=0, min_visible=1),
                loaded(masks), 1)
    assert not after['gt_ignore_flags'].any()
    assert len(after['gt_masks']) == len(masks)


def test_an_image_without_cells_is_warped():
    after = run(RandomCellAffine(), loaded(np.zeros((0, 20, 30), np.uint8)))
    assert after['img'].shape == (20, 30, 3)
    assert len(after['gt_masks']) == len(after['gt_bboxes']) == len(after['gt_bboxes_labels']) == 0


def test_amounts_fill_their_ranges_evenly():
    transform = RandomCellAffine(40, (0.5, 2), 0, 0.1)
    np.random.seed(0)  # noqa: NPY002
    matrices = [transform._draw_matrix(100, 200) for _ in range(1000)]
    linear = np.array([matrix[:2, :2] for matrix in matrices])
    scales = np.sqrt(np.linalg.det(linear))
    turns = np.degrees(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
    shifts = np.array([(matrix @ (100, 50, 1))[:2] - (100, 50) for matrix in matrices])
    for values, low, high in ((np.log2(scales), -1, 1), (turns, -40, 40), (shifts[:, 0], -20, 20),
                              (shifts[:, 1], -10, 10)):
        assert low <= values.min()
        assert values.max() <= high
        counts, _ = np.histogram(values, 4, (low, high))
        assert counts.min() > 200


def test_of_images_that_are_not_turned_the_middle_stays_as_it_is():
    masks = squares([(3, 5), (22, 13), (27, 22), (50, 30)], (40, 60))
    transform, left = RandomCellAffine(180, crop_size=(20, 14), prob=0.25, min_visible=0), 0
    for seed in range(200):
        before = loaded(masks)
        after = run(transform, dict(before), seed)
        assert after['img'].shape == (14, 20, 3)
        if np.array_equal(after['img'], before['img'][13:27, 20:40]):
            left += 1
            middle = masks[:, 13:27, 20:40]
            np.testing.assert_array_equal(after['gt_masks'].to_ndarray(), middle[middle.any((1, 2))])
            assert_boxes_are_tight(after)
            np.testing.assert_array_equal(after['homography_matrix'], [[1, 0, -20], [0, 1, -13], [0, 0, 1]])
    assert 130 < left < 170


@pytest.mark.parametrize('transform', [RandomQuarterTurn(), RandomCellAffine()])
def test_the_same_seed_gives_the_same_result(transform):
    masks = squares([(3, 5), (50, 30)], (40, 60))
    images = [run(transform, loaded(masks), seed)['img'] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


@pytest.mark.parametrize(('options', 'message'), [
    (dict(max_rotation=-1), 'max_rotation'), (dict(max_shear=45), 'max_shear'),
    (dict(max_rotation=np.nan), 'max_rotation'), (dict(max_rotation=np.inf), 'max_rotation'),
    (dict(max_shear=np.nan), 'max_shear'), (dict(scale_range=1.2), 'scale_range'),
    (dict(scale_range=(1, np.inf)), 'scale_range'), (dict(scale_range=(0, 1)), 'scale_range'),
    (dict(scale_range=(2, 1)), 'scale_range'),
    (dict(max_translation=2), 'max_translation'), (dict(min_visible=-1), 'min_visible'),
    (dict(prob=1.5), 'prob'), (dict(crop_size=(0, 5)), 'crop_size'), (dict(crop_size=5), 'crop_size')])
def test_affine_arguments_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(UserError, match=message):
        RandomCellAffine(**options)
