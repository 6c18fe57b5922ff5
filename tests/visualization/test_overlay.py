import re

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from cellseg_mm.errors import CellDataError
from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.visualization import overlay

CATEGORIES = [{'id': 1, 'name': 'common'}, {'id': 2, 'name': 'rare'}]
RED, BLUE = (0, 0, 255), (255, 0, 0)


def rle_of(mask):
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {'size': rle['size'], 'counts': rle['counts'].decode()}


def disk(shape, x, y, radius):
    return cv2.circle(np.zeros(shape, np.uint8), (x, y), radius, 1, -1)


def crops_of(*masks):
    return LocalMasks.from_bitmaps(np.stack(masks)).crops()


def white(height, width):
    return np.full((height, width, 3), 255, np.uint8)


def test_an_empty_instance_draws_nothing():
    assert (overlay.draw_instances(white(7, 5), crops_of(np.zeros((7, 5))), [0], [RED]) == 255).all()


def test_colours_of_any_number_of_classes_differ():
    colours = overlay.class_colours(60)
    assert len(set(colours)) == 60
    assert overlay.class_colours(3) == colours[:3]
    assert overlay.class_colours(0) == []


@pytest.mark.parametrize('scale', [1, 2, 3, 8])
def test_outline_lies_on_the_cell_and_leaves_its_inside_visible(scale):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    before = image.copy()
    mask = disk((40, 50), 20, 15, 10)
    drawn = overlay.draw_instances(image, crops_of(mask), [0], [RED], scale)
    np.testing.assert_array_equal(image, before)
    assert drawn.shape == (40 * scale, 50 * scale, 3)
    outline = (drawn == RED).all(axis=2)
    large = cv2.resize(mask, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    assert outline.sum() >= 2 * np.pi * 9 * scale * 0.8
    # Smoothing moves the outline by less than a pixel of the image.
    assert not outline[cv2.dilate(large, np.ones((2 * scale - 1,) * 2)) == 0].any()
    unpainted = overlay.enlarge(image, scale)
    np.testing.assert_array_equal(drawn[:, 35 * scale:], unpainted[:, 35 * scale:])
    centre = np.s_[13 * scale:18 * scale, 18 * scale:23 * scale]
    change = np.abs(drawn[centre].astype(int) - unpainted[centre]).mean()
    assert 0 < change < 40


@pytest.mark.parametrize('scale', [1, 2, 4])
def test_touching_cells_of_one_class_stay_two(scale):
    crops = [(x, 2, np.ones((6, 6), np.uint8)) for x in (2, 8)]
    drawn = overlay.draw_instances(white(10, 16), crops, [0, 0], [RED], scale)
    outline = (drawn == RED).all(axis=2)
    row = outline[5 * scale]
    assert row[7 * scale:9 * scale].any()
    assert not row[4 * scale:6 * scale].any()
    assert not row[10 * scale:12 * scale].any()


@pytest.mark.parametrize('scale', [1, 2, 5])
def test_cells_of_one_pixel_and_at_the_border_are_seen(scale):
    crops = [(0, 0, np.ones((1, 1), np.uint8)), (4, 1, np.ones((4, 1), np.uint8))]
    drawn = overlay.draw_instances(white(5, 5), crops, [0, 1], [RED, BLUE], scale)
    assert (drawn[:scale, :scale] == RED).all(axis=2).any()
    assert (drawn[2 * scale:4 * scale, 4 * scale:] == BLUE).all(axis=2).any()


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.02, 1), st.integers(0, 99))
def test_masks_made_smaller_are_resized_and_none_vanishes(height, width, factor, seed):
    masks = LocalMasks.from_bitmaps(np.random.default_rng(seed).random((5, height, width)) < 0.02)
    shape = max(round(height * factor), 1), max(round(width * factor), 1)
    small = overlay.shrink(masks, *shape)
    assert (small.height, small.width) == shape
    for mask, resized, shrunk in zip(masks, masks.resize(shape), small, strict=True):
        if resized.any() or not mask.any():
            np.testing.assert_array_equal(shrunk, resized)
        else:
            (y, ), (x, ) = np.nonzero(shrunk)
            ys, xs = np.nonzero(mask)
            assert int(ys.min() * shape[0] / height) <= y <= ys.max() * shape[0] / height + 1
            assert int(xs.min() * shape[1] / width) <= x <= xs.max() * shape[1] / width + 1


@pytest.mark.parametrize('scale', [1, 2, 4])
def test_a_box_is_outlined_inside_its_edges(scale):
    image = white(20 * scale, 30 * scale)
    drawn = overlay.draw_boxes(image, np.array([[4.2, 5, 14, 15.4], [29, 19, 30, 20]]), [0, 1], [RED, BLUE], scale)
    assert (image == 255).all()
    left, right, bottom = round(4.2 * scale), 14 * scale, round(15.4 * scale)
    expected, width = np.zeros(image.shape[:2], bool), min(scale, 2)
    expected[5 * scale:bottom, left:right] = True
    expected[5 * scale + width:bottom - width, left + width:right - width] = False
    np.testing.assert_array_equal((drawn == RED).all(axis=2), expected)
    assert (drawn[-1, -1] == BLUE).all()


@pytest.mark.parametrize('corner', [(0, 0), (299, 199), (-5, 400), (150, 100)])
def test_a_text_is_written_whole_wherever_its_corner_is(corner):
    image = np.full((200, 300, 3), 128, np.uint8)
    written = [(overlay.draw_texts(image, np.array([xy]), ['cell 0.9']) != image).any(axis=2)
               for xy in (corner, (100, 100))]
    assert (image == 128).all()
    assert written[0].sum() >= 0.8 * written[1].sum() > 0


def test_texts_hide_no_earlier_ones_and_crowds_have_none():
    image = np.full((200, 300, 3), 128, np.uint8)
    first = overlay.draw_texts(image, np.array([[50, 50]]), ['first'])
    np.testing.assert_array_equal(
        overlay.draw_texts(image, np.array([[50, 50], [52, 51]]), ['first', 'second']), first)
    np.testing.assert_array_equal(overlay.draw_texts(image, np.zeros((0, 2), int), []), image)
    corners = np.random.default_rng(0).integers(0, 200, (100, 2))
    assert overlay.draw_texts(image, corners, ['cell'] * 100) is image


def test_small_images_are_enlarged_and_large_ones_left_alone():
    assert overlay.readable_scale((64, 64, 3)) == 8
    assert overlay.readable_scale((397, 482, 3)) == 2
    assert overlay.readable_scale((600, 1000, 3)) == 1
    assert overlay.readable_scale((2160, 2160, 3)) == 1
    image = white(3, 3)
    assert overlay.enlarge(image, 1) is image


@pytest.mark.parametrize('shape', [(60, 60), (40, 200), (300, 9), (1, 1)])
def test_every_panel_is_shown_whole_whatever_its_shape(shape):
    panels = [(f'A title longer than its panel {index}', np.full((*shape, 3), (10, 20, 100 + index), np.uint8))
              for index in range(3)]
    page = overlay.side_by_side(panels, [(f'a class with a long name {i}: 12 cells', RED) for i in range(9)])
    for index in range(3):
        ys, xs = np.nonzero((page == (10, 20, 100 + index)).all(axis=2))
        assert len(ys) >= shape[0] * shape[1]
        assert (page[ys.min():ys.min() + shape[0], xs.min():xs.min() + shape[1]] == (10, 20, 100 + index)).all()
    border = np.concatenate([page[:8].ravel(), page[-8:].ravel(), page[:, :8].ravel(), page[:, -8:].ravel()])
    assert (border == 255).all()


@pytest.fixture
def coco(tmp_path):
    """Three images: 'dense' with many common cells, 'rare' with one rare cell, 'empty'."""
    images, annotations = [], []
    for image_id, (name, cells) in enumerate([('train/empty/image.png', []),
                                              ('train/rare/image.png', [(2, 20)]),
                                              ('train/dense/image.png', [(1, 10), (1, 30), (1, 50)])], 1):
        (tmp_path / name).parent.mkdir(parents=True)
        cv2.imwrite(str(tmp_path / name), white(40, 64))
        images.append({'id': image_id, 'file_name': name, 'height': 40, 'width': 64})
        annotations += [{'id': 10 * image_id + x, 'image_id': image_id, 'category_id': category,
                         'segmentation': rle_of(disk((40, 64), x, 20, 8))} for category, x in cells]
    return {'images': images, 'annotations': annotations, 'categories': CATEGORIES}


def write_comparisons(coco, results, root, out_dir, score=0.5, **options):
    thresholds = {category['name']: score for category in coco['categories']}
    return overlay.write_comparisons(coco, results, root, out_dir, thresholds, **options)


def results_of(coco, score):
    return [{key: a[key] for key in ('image_id', 'category_id', 'segmentation')} | {'score': score}
            for a in coco['annotations']]


def names(paths):
    return [path.name for path in paths]


def test_rare_classes_come_first_then_the_densest(coco, tmp_path):
    paths = write_comparisons(coco, results_of(coco, 0.9), tmp_path, tmp_path / 'out')
    assert names(paths) == ['01_train_rare_image.png', '02_train_dense_image.png', '03_train_empty_image.png']
    assert sorted(names((tmp_path / 'out').iterdir())) == names(paths)
    assert names(write_comparisons(coco, [], tmp_path, tmp_path / 'one', limit=1)) == names(paths)[:1]


def test_the_same_call_writes_the_same_bytes(coco, tmp_path):
    shuffled = coco | {'images': coco['images'][::-1]}
    first = write_comparisons(coco, [], tmp_path, tmp_path / 'a')
    second = write_comparisons(shuffled, [], tmp_path, tmp_path / 'b')
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_predictions_below_the_threshold_are_not_drawn(coco, tmp_path):
    empty = write_comparisons(coco, [], tmp_path, tmp_path / 'a', score=0.5)
    low = write_comparisons(coco, results_of(coco, 0.4), tmp_path, tmp_path / 'b', score=0.5)
    high = write_comparisons(coco, results_of(coco, 0.5), tmp_path, tmp_path / 'c', score=0.5)
    assert low[0].read_bytes() == empty[0].read_bytes() != high[0].read_bytes()


def test_each_class_has_its_own_threshold(coco, tmp_path):
    names = [category['name'] for category in coco['categories']]
    results = results_of(coco, 0.5)
    first = [result for result in results if result['category_id'] == coco['categories'][0]['id']]
    assert 0 < len(first) < len(results)
    thresholds = {name: 0.4 if name == names[0] else 0.6 for name in names}
    drawn = overlay.write_comparisons(coco, results, tmp_path, tmp_path / 'a', thresholds)
    alone = overlay.write_comparisons(coco, first, tmp_path, tmp_path / 'b', thresholds)
    assert [path.read_bytes() for path in drawn] == [path.read_bytes() for path in alone]


def test_cells_are_drawn_as_the_metrics_count_them(coco, tmp_path):
    results = results_of(coco, 0.9)
    hidden = [result | {'score': 0.6} for result in results]
    alone, with_hidden = (write_comparisons(coco, found, tmp_path, tmp_path / name)
                          for name, found in (('a', results), ('b', [*hidden, *results])))
    assert [path.read_bytes() for path in alone] == [path.read_bytes() for path in with_hidden]


def test_images_without_ground_truth_show_their_predictions_alone(coco, tmp_path):
    compared = write_comparisons(coco, results_of(coco, 0.9), tmp_path, tmp_path / 'a')
    alone = write_comparisons(coco | {'annotations': []}, results_of(coco, 0.9), tmp_path, tmp_path / 'b')
    assert names(alone) == names(compared)
    assert cv2.imread(str(alone[0])).shape[1] < cv2.imread(str(compared[0])).shape[1]
    assert len(write_comparisons(coco | {'annotations': []}, [], tmp_path, tmp_path / 'c')) == 3


def test_crowds_are_not_drawn_as_cells(coco, tmp_path):
    crowd = dict(coco['annotations'][0], category_id=1, iscrowd=1, segmentation=rle_of(np.ones((40, 64))))
    without, drawn = (
        write_comparisons(coco | {'annotations': annotations}, [], tmp_path, tmp_path / str(len(annotations)))
        for annotations in (coco['annotations'], [*coco['annotations'], crowd]))
    assert [path.read_bytes() for path in without] == [path.read_bytes() for path in drawn]


def test_an_image_of_another_size_than_its_masks_is_refused(coco, tmp_path):
    cv2.imwrite(str(tmp_path / 'train/rare/image.png'), white(41, 64))
    with pytest.raises(CellDataError, match=re.escape('is 64 x 41 pixels, its annotations are for 64 x 40')):
        write_comparisons(coco, [], tmp_path, tmp_path / 'out')
