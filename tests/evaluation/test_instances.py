import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.evaluation.instances import pair_images, read_results
from cellseg_mm.evaluation.matching import match_cells
from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.structures.rle import with_text_counts

SIZE = 24, 30


def squares(rng, count):
    corners, sides = rng.integers(0, 20, (count, 2)), rng.integers(1, 9, (count, 2))
    masks = np.zeros((count, *SIZE), bool)
    for mask, (x, y), (w, h) in zip(masks, corners, sides, strict=True):
        mask[y:y + h, x:x + w] = rng.random((h, w))[:SIZE[0] - y] < 0.8
    return masks


def rles(masks):
    return [with_text_counts(rle) for rle in LocalMasks.from_bitmaps(masks).to_rles()]


def annotation(mask, category=1, image=1, **more):
    return {'image_id': image, 'category_id': category, 'segmentation': rles(mask[None])[0], **more}


def scene(truth, results, **image):
    return pair_images(
        {'images': [{'id': 1, 'file_name': 'a.tif', 'height': SIZE[0], 'width': SIZE[1], **image}],
         'categories': [{'id': 7, 'name': 'late'}, {'id': 1, 'name': 'early'}], 'annotations': truth}, results)


def box(x, y, w, h):
    mask = np.zeros(SIZE, bool)
    mask[y:y + h, x:x + w] = True
    return mask


@given(st.integers(0, 2**32 - 1), st.integers(0, 20), st.integers(0, 20))
def test_matches_are_one_to_one_above_the_iou_and_the_best_ones_first(seed, count, other):
    rng = np.random.default_rng(seed)
    first, second = squares(rng, count), squares(rng, other)
    first, second = (masks[masks.any((1, 2))] for masks in (first, second))
    pair, = scene([annotation(mask) for mask in first], [annotation(mask, score=0.5) for mask in second])
    shared = np.einsum('ihw,jhw->ij', first.astype(int), second.astype(int))
    iou = shared / np.maximum(first.sum((1, 2))[:, None] + second.sum((1, 2)) - shared, 1)
    expected, left = {}, iou.copy()
    while left.size and left.max() > 0.3:
        i, j = np.unravel_index(left.argmax(), left.shape)
        expected[int(i)] = left[i, j]
        left[i], left[:, j] = 0, 0
    i, j, found = match_cells(pair, 0.3)
    assert len(set(j.tolist())) == len(j)
    assert found.tolist() == iou[i, j].tolist()
    assert sorted(found.tolist()) == sorted(expected.values())


def test_labels_follow_the_ids_of_categories_and_boxes_are_the_masks_where_none_is_given():
    pair, = scene([annotation(box(2, 3, 4, 5)), annotation(box(9, 9, 2, 2), 7, iscrowd=1)],
                  [annotation(box(2, 3, 4, 5), 7, score=0.25, bbox=[2.5, 3, 4, 5])], group='g', mpp=0.5)
    assert (pair.truth.labels.tolist(), pair.predicted.labels.tolist()) == ([0, 1], [1])
    assert pair.truth.boxes.tolist() == [[2, 3, 4, 5], [9, 9, 2, 2]]
    assert pair.predicted.boxes.tolist() == [[2.5, 3, 4, 5]]
    assert (pair.truth.scores.tolist(), pair.predicted.scores.tolist()) == ([1, 1], [0.25])
    assert (pair.truth.crowd.tolist(), pair.truth.ignore.tolist()) == ([False, True], [False, True])
    assert (pair.name, pair.group, pair.mpp, pair.height, pair.width) == ('a.tif', 'g', 0.5, *SIZE)


def test_an_image_without_a_group_is_its_own():
    assert scene([], [])[0].group == 'image 1'
    assert scene([], [], group='')[0].group == 'image 1'


def test_groups_may_be_numbers_and_zero_is_one_of_them():
    assert scene([], [], group=0)[0].group == '0'


def test_images_without_cells_or_results_are_there_too_in_the_order_of_their_ids():
    images = [{'id': i, 'height': SIZE[0], 'width': SIZE[1]} for i in (3, 1, 2)]
    pairs = pair_images({'images': images, 'categories': [{'id': 1}], 'annotations': [annotation(box(0, 0, 1, 1))]},
                        [annotation(box(1, 1, 1, 1), image=3, score=1)])
    assert [(pair.image_id, len(pair.truth), len(pair.predicted)) for pair in pairs] == [
        (1, 1, 0), (2, 0, 0), (3, 0, 1)]


def test_confident_predictions_are_above_their_class_threshold_and_do_not_overlap():
    results = [annotation(box(0, 0, 6, 6), 1, score=0.5), annotation(box(3, 0, 6, 6), 7, score=0.9),
               annotation(box(4, 1, 2, 2), 1, score=0.6), annotation(box(20, 20, 4, 4), 7, score=0.69)]
    pair = scene([], results)[0].confident([0.5, 0.7])
    assert pair.predicted.scores.tolist() == [0.5, 0.9]
    assert pair.predicted.masks.boxes.tolist() == [[0, 0, 3, 6], [3, 0, 6, 6]]


def test_a_cell_that_was_found_twice_is_there_once_as_the_surer_class():
    # Less than the 20 x 4 pixels of which the lower ones would be left as a cell of their own.
    results = [annotation(box(0, 0, 20, 10), 1, score=0.6), annotation(box(0, 2, 20, 12), 7, score=0.8),
               annotation(box(0, 14, 20, 3), 1, score=0.5)]
    pair = scene([], results)[0].confident([0.5, 0.5])
    assert pair.predicted.scores.tolist() == [0.8, 0.5]
    assert pair.predicted.labels.tolist() == [1, 0]
    assert pair.predicted.masks.boxes.tolist() == [[0, 2, 20, 12], [0, 14, 20, 3]]


def test_confident_pairs_hold_nothing_that_is_to_be_ignored():
    truth = [annotation(box(0, 0, 10, 10), iscrowd=1), annotation(box(15, 0, 4, 4))]
    results = [annotation(box(5, 5, 4, 4), score=1), annotation(box(8, 0, 5, 4), score=1)]
    pair = scene(truth, results)[0].confident([0, 0])
    assert pair.truth.masks.boxes.tolist() == [[15, 0, 4, 4]]
    assert pair.predicted.masks.boxes.tolist() == [[8, 0, 5, 4]]


@pytest.mark.parametrize(('change', 'message'), [
    ({'image_id': 7}, 'image id 7'),
    ({'category_id': 4}, 'category 4'),
    ({'segmentation': {'size': [30, 24], 'counts': '0'}}, 'mask of [30, 24] pixels'),
])
def test_results_that_do_not_belong_to_the_ground_truth_are_refused(change, message):
    result = annotation(box(0, 0, 2, 2), score=1.0)
    with pytest.raises(UserError, match=f'result 1 .*{re.escape(message)}'):
        scene([], [result, {**result, **change}])


RLE = {'size': list(SIZE), 'counts': '0'}


@pytest.mark.parametrize(('key', 'value', 'message'), [
    *((key, None, f'result 0 has the {key} None') for key in ('image_id', 'category_id', 'score')),
    *((key, [1], f'result 0 has the {key} [1]') for key in ('image_id', 'category_id', 'score')),
    ('image_id', '1', "image_id '1'"), ('score', '0.5', "score '0.5'"), ('score', float('nan'), 'score nan'),
    ('score', True, 'score True'),
    *(('segmentation', value, 'no RLE') for value in (
        None, [[1, 1, 5, 1, 5, 5]], {'size': list(SIZE)}, {'counts': '0'}, {**RLE, 'size': 24})),
    *(('bbox', value, 'the bbox') for value in ([1, 2, 3], 'abcd', {'x': 1}, [1, 2, float('nan'), 3], [1, 2, -3, 3])),
])
def test_what_is_no_result_is_refused(key, value, message):
    result = annotation(box(0, 0, 2, 2), score=1.0) | {key: value}
    with pytest.raises(UserError, match=re.escape(message)):
        scene([], [result])


def test_what_is_no_object_is_no_result():
    with pytest.raises(UserError, match='result 1 is no JSON object'):
        scene([], [annotation(box(0, 0, 2, 2), score=1), 3])


def test_without_an_image_there_is_nothing_to_evaluate():
    with pytest.raises(UserError, match='lists no image'):
        pair_images({'images': [], 'categories': [], 'annotations': []}, [])


@pytest.mark.parametrize(('content', 'message'), [('{}', 'not a list of COCO results'), ('[', 'not JSON')])
def test_a_file_of_another_kind_holds_no_results(tmp_path, content, message):
    (tmp_path / 'a.json').write_text(content)
    with pytest.raises(CellDataError, match=message):
        read_results(tmp_path / 'a.json')


def test_a_mask_that_cannot_be_read_is_refused():
    result = annotation(box(0, 0, 2, 2), score=1.0)
    result['segmentation'] = {**result['segmentation'], 'counts': 'x'}
    with pytest.raises(UserError, match='mask of image 1 cannot be read'):
        scene([], [result])
