import doctest
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_map_scenes import (
    CLASSES,
    consep_scene,
    ids_of,
    in_another_order,
    masks_of,
    of_class,
    pair_of,
    random_scene,
    scenes,
)

from cellseg_mm.evaluation import panoptic
from cellseg_mm.evaluation.panoptic import (
    aggregated_jaccard,
    aggregated_jaccard_plus,
    count_matches,
    dice,
    panoptic_quality,
    segmentation_quality,
)

NAN = np.nan


def slow_panoptic_quality(true, predicted):
    """DQ, SQ and PQ of two label maps, cell by cell."""
    ious = [(t & p).sum() / (t | p).sum() for t, p in product(masks_of(true), masks_of(predicted))]
    matched = [iou for iou in ious if iou > 0.5]
    cells = len(ids_of(true)) + len(ids_of(predicted))
    if not cells:
        return NAN, NAN, NAN
    dq, sq = 2 * len(matched) / cells, np.mean(matched) if matched else 0
    return dq, sq, dq * sq


def slow_jaccards(true, predicted, choices):
    """Every AJI that a choice of pairs gives, each choice a list of (true cell, prediction)."""
    true, predicted = masks_of(true), masks_of(predicted)
    for pairs in choices:
        shared = sum((true[i] & predicted[j]).sum() for i, j in pairs)
        union = sum((true[i] | predicted[j]).sum() for i, j in pairs)
        union += sum(mask.sum() for i, mask in enumerate(true) if i not in {i for i, _ in pairs})
        union += sum(mask.sum() for j, mask in enumerate(predicted) if j not in {j for _, j in pairs})
        yield shared / union


def iou_matrix(true, predicted):
    return np.array([[(t & p).sum() / (t | p).sum() for p in masks_of(predicted)] for t in masks_of(true)])


def close(values):
    return pytest.approx(values, abs=1e-12, nan_ok=True)


@given(scenes())
def test_panoptic_quality_is_that_of_the_label_maps(scene):
    true, predicted, true_labels, predicted_labels = scene
    metrics, images, counts = segmentation_quality([pair_of(*scene)], CLASSES)
    assert [metrics['bDQ'], metrics['bSQ'], metrics['bPQ']] == close(slow_panoptic_quality(true, predicted))
    assert images['bPQ'] == close([metrics['bPQ']])
    of_classes = [slow_panoptic_quality(of_class(true, true_labels, label),
                                        of_class(predicted, predicted_labels, label)) for label in range(3)]
    assert [[metrics[f'{name}/{category}'] for name in ('DQ', 'SQ', 'PQ')] for category in CLASSES] == [
        close(values) for values in of_classes]
    defined = [pq for _, _, pq in of_classes if not np.isnan(pq)]
    assert metrics['mPQ'] == close(np.mean(defined) if defined else NAN)
    assert metrics['mPQ+'] == close(metrics['mPQ']), 'an image alone is pooled with none'
    assert (counts.tp + counts.fn)[0].tolist() == [true_labels.count(label) for label in range(3)] + [len(true_labels)]
    assert (counts.tp + counts.fp)[0, -1] == len(predicted_labels)


@given(scenes())
def test_aji_pairs_each_true_cell_with_the_prediction_of_highest_iou(scene):
    true, predicted, *_ = scene
    value = aggregated_jaccard(pair_of(true, predicted))
    if not ids_of(true) or not ids_of(predicted):
        assert np.isnan(value) if not true.any() | predicted.any() else value == 0
        return
    best = [[(i, j) for j in np.flatnonzero(row == row.max())] if row.any() else [None]
            for i, row in enumerate(iou_matrix(true, predicted))]
    choices = ([pair for pair in pairs if pair] for pairs in product(*best))
    assert min(abs(value - each) for each in slow_jaccards(true, predicted, choices)) < 1e-12


@given(scenes())
def test_aji_plus_takes_the_assignment_of_the_largest_iou(scene):
    true, predicted, *_ = scene
    value = aggregated_jaccard_plus(pair_of(true, predicted))
    if not ids_of(true) or not ids_of(predicted):
        assert np.isnan(value) if not true.any() | predicted.any() else value == 0
        return
    iou = iou_matrix(true, predicted)
    rows, columns = iou.shape
    choices = [[(i, j) for i, j in enumerate(partners) if j < columns and iou[i, j]]
               for partners in permutations(range(columns + rows), rows)]
    sums = np.array([sum(iou[pair] for pair in pairs) for pairs in choices])
    best = (choices[k] for k in np.flatnonzero(sums > sums.max() - 1e-9))
    assert min(abs(value - each) for each in slow_jaccards(true, predicted, best)) < 1e-12


@given(scenes())
def test_dice_is_that_of_the_foreground(scene):
    true, predicted = scene[0] > 0, scene[1] > 0
    cells = true.sum() + predicted.sum()
    assert dice(pair_of(*scene[:2])) == close(2 * (true & predicted).sum() / cells if cells else NAN)


@given(scenes(), st.integers(0, 1000))
def test_the_order_of_cells_and_the_names_of_classes_change_nothing(scene, seed):
    pair = pair_of(*scene)
    metrics = segmentation_quality([pair], CLASSES)[0]
    assert segmentation_quality([in_another_order(pair, seed)], CLASSES)[0] == close(metrics)
    cycled = [[(label + 1) % 3 for label in labels] for labels in scene[2:]]
    cycled = segmentation_quality([pair_of(*scene[:2], *cycled)], CLASSES[-1:] + CLASSES[:-1])[0]
    assert cycled == close(metrics)


def test_the_order_of_images_changes_nothing():
    pairs = [pair_of(*random_scene(seed)) for seed in range(3)]
    metrics, images, counts = segmentation_quality(pairs, CLASSES)
    reversed_metrics, reversed_images, reversed_counts = segmentation_quality(pairs[::-1], CLASSES)
    assert reversed_metrics == close(metrics)
    for name, values in images.items():
        np.testing.assert_array_equal(values, reversed_images[name][::-1])
    for count, of_reversed in zip(counts, reversed_counts, strict=True):
        np.testing.assert_array_equal(count, of_reversed[::-1])


def test_one_prediction_over_two_cells_worked_by_hand():
    true = np.array([[1, 1, 1, 1, 2, 2, 0, 0]])
    predicted = np.array([[5, 5, 5, 5, 5, 5, 7, 7]])
    pair = pair_of(true, predicted)
    # AJI pairs 5 with both: (4 + 2) / (6 + 6), and the spurious 7 adds 2. AJI+ pairs it with 1, so that 2 adds 2 more.
    assert aggregated_jaccard(pair) == pytest.approx(6 / 14)
    assert aggregated_jaccard_plus(pair) == pytest.approx(4 / 10)
    assert dice(pair) == pytest.approx(2 * 6 / (6 + 8))
    # One match of IoU 4 / 6, one cell missed, one spurious.
    assert [float(values[0, -1]) for values in panoptic_quality(*count_matches([pair], 1))] == pytest.approx(
        [1 / 2, 2 / 3, 1 / 3])


def both_orders(true, predicted):
    """AJI and AJI+ for the predictions in either order of their ids."""
    predicted = np.array(predicted)
    return [[metric(pair_of(true, each)) for metric in (aggregated_jaccard, aggregated_jaccard_plus)]
            for each in (predicted, np.where(predicted, 9 - predicted, 0))]


def test_of_equal_iou_the_larger_prediction_is_paired():
    # IoU 1 / 3 and 2 / 6: HoVer-Net adds a bit to the unions.
    assert both_orders([[7, 7, 7, 0, 0, 0]], [[1, 2, 2, 2, 2, 2]]) == [[pytest.approx(2 / 7)] * 2] * 2


def test_of_alike_predictions_the_first_in_the_image_is_paired_not_the_first_in_the_list():
    # The long cell may be paired with either; AJI leaves a prediction over where it takes the one that the other has.
    first, second = both_orders([[1, 1, 2, 2, 2, 2, 0]], [[0, 1, 1, 0, 0, 2, 2]])
    assert first == second == pytest.approx([2 / (3 + 5 + 2), 2 / (3 + 5)])


def test_an_iou_of_one_half_is_no_match():
    counts = count_matches([pair_of([[1, 1, 1, 0]], [[0, 1, 1, 1]])], 1)
    assert [count[0, -1] for count in counts] == [0, 1, 1, 0]
    counts = count_matches([pair_of([[1, 1, 1, 1, 1, 0]], [[0, 1, 1, 1, 1, 0]])], 1)
    assert [count[0, -1] for count in counts] == [1, 0, 0, 0.8]


def test_cells_predicted_in_a_class_that_the_image_lacks_are_false_positives():
    found = np.array([[1, 1, 0, 2, 2, 0, 3, 3]])
    lacks_b = pair_of(np.where(found == 1, found, 0), found, [0], [0, 1, 1])
    has_b = pair_of(np.where(found == 2, found, 0), np.where(found == 2, found, 0), [1], [1])
    metrics, images, counts = segmentation_quality([lacks_b, has_b], 'ab')
    assert counts.fp.tolist() == [[0, 2, 2], [0, 0, 0]]
    assert images['mPQ'].tolist() == [0.5, 1], '0 where only predicted, left out where neither'
    assert (metrics['PQ/a'], metrics['PQ/b'], metrics['PQ+/a'], metrics['PQ+/b']) == (1, 0.5, 1, 0.5)
    assert (metrics['mPQ'], metrics['mPQ+']) == (0.75, 0.75)
    assert images['bPQ'].tolist() == [0.5, 1]


def test_mpq_is_the_mean_over_classes_then_over_images_and_pooled_is_not():
    line = np.array([[1, 2, 3, 4, 5]])
    of_a = pair_of(line, np.where(line < 5, line, 0), [0] * 5, [0] * 4)  # finds 4 of 5: PQ 8 / 9
    of_both = pair_of(np.where(line < 3, line, 0), np.where(line < 2, line, 0), [0, 1], [0])  # finds a, misses b
    metrics, *_ = segmentation_quality([of_a, of_both], 'ab')
    assert metrics['mPQ'] == pytest.approx((8 / 9 + (1 + 0) / 2) / 2)
    assert metrics['PQ/a'] == pytest.approx((8 / 9 + 1) / 2)
    assert metrics['PQ+/a'] == pytest.approx(10 / 11)
    assert metrics['mPQ+'] == pytest.approx((10 / 11 + 0) / 2)


EMPTY, CELL = np.zeros((3, 3), int), np.eye(3, dtype=int)


@pytest.mark.parametrize(('true', 'predicted', 'expected'), [
    (EMPTY, EMPTY, NAN), (CELL, EMPTY, 0), (EMPTY, CELL, 0), (CELL, CELL, 1), (EMPTY[:0], EMPTY[:0], NAN)])
def test_without_cells_it_is_undefined_and_with_cells_on_one_side_zero(true, predicted, expected):
    metrics, images, _ = segmentation_quality([pair_of(true, predicted)], 'ab')
    assert metrics == close({name: NAN if name.endswith('/b') else expected for name in metrics})
    assert all(values.shape == (1,) for values in images.values())
    assert list(metrics) == ['bDQ', 'bSQ', 'bPQ', 'mPQ', 'AJI', 'AJI+', 'Dice', 'mPQ+'] + [
        f'{name}/{label}' for name in ('DQ', 'SQ', 'PQ', 'PQ+') for label in 'ab']


def test_undefined_images_are_left_out_of_means():
    pairs = [pair_of(CELL, CELL), pair_of(EMPTY, EMPTY), pair_of(CELL, EMPTY)]
    metrics, images, _ = segmentation_quality(pairs, 'a')
    for name in ('bPQ', 'mPQ', 'AJI', 'AJI+', 'Dice'):
        np.testing.assert_array_equal(images[name], [1, NAN, 0])
        assert metrics[name] == 0.5
    assert metrics['PQ+/a'] == pytest.approx(2 / 3)


def test_no_images_have_no_quality():
    metrics, images, counts = segmentation_quality([], CLASSES)
    assert np.isnan(list(metrics.values())).all()
    assert counts.tp.shape == (0, 4)
    assert images['AJI'].shape == (0,)


def test_a_mask_without_pixels_is_a_cell_that_nothing_matches():
    nothing = pair_of(np.zeros((1, 3, 3), bool), EMPTY)
    assert (aggregated_jaccard(nothing), aggregated_jaccard_plus(nothing), dice(nothing)) == (0, 0, 0)
    assert count_matches([nothing], 1).fn.tolist() == [[1, 1]]


def test_true_cells_of_two_classes_may_share_pixels():
    true = np.zeros((2, 1, 6), bool)
    true[0, 0, :4] = true[1, 0, 3:] = True
    pair = pair_of(true, [[1, 1, 1, 1, 2, 2]], [0, 1], [0, 1])
    counts = count_matches([pair], 2)
    assert counts.iou.tolist() == [[1, 2 / 3, 1 + 2 / 3]]
    assert aggregated_jaccard(pair) == aggregated_jaccard_plus(pair) == pytest.approx((4 + 2) / (4 + 3))
    assert dice(pair) == 1, 'a pixel counts once in the foreground'


def test_a_cell_annotated_in_two_classes_is_found_in_the_class_of_its_prediction():
    for predicted_class in (0, 1):
        pair = pair_of(np.ones((2, 2, 2), bool), np.ones((2, 2), int), [0, 1], [predicted_class])
        counts = count_matches([pair], 2)
        assert counts.tp.tolist() == [[predicted_class == 0, predicted_class == 1, 1]]
        assert counts.fn.tolist() == [[predicted_class == 1, predicted_class == 0, 1]]


def test_the_examples_in_the_module_hold():
    results = doctest.testmod(panoptic)
    assert results.attempted
    assert not results.failed


def agrees_with_cellseg_metrics(true, predicted, *labels):
    reference = pytest.importorskip('cellseg_metrics')
    metrics, *_ = segmentation_quality([pair_of(true, predicted, *labels)], CLASSES)
    quality = reference.panoptic_quality(true, predicted)
    assert [metrics['bDQ'], metrics['bSQ'], metrics['bPQ']] == pytest.approx(
        [quality['dq'], quality['sq'], quality['pq']], abs=1e-6)
    for label, category in enumerate(CLASSES):
        quality = reference.panoptic_quality(of_class(true, labels[0], label), of_class(predicted, labels[1], label))
        if not np.isnan(metrics[f'PQ/{category}']):
            assert metrics[f'PQ/{category}'] == pytest.approx(quality['pq'], abs=1e-6)
    pixels = reference.get_stats((true > 0).astype(np.uint8), (predicted > 0).astype(np.uint8))
    assert metrics['Dice'] == pytest.approx(reference.dice_coef(*pixels), abs=1e-6)
    # It pairs by the largest intersection, not by the highest IoU.
    iou = iou_matrix(true, predicted)
    shared = np.array([[(t & p).sum() for p in masks_of(predicted)] for t in masks_of(true)])
    largest = shared == np.maximum(shared.max(1, keepdims=True), 1)
    alike = np.array_equal(largest, iou == np.maximum(iou.max(1, keepdims=True), 1e-9))
    if alike:
        assert metrics['AJI'] == pytest.approx(reference.aggregated_jaccard_index(true, predicted), abs=1e-6)
    return alike


def test_it_agrees_with_cellseg_metrics():
    alike = [agrees_with_cellseg_metrics(*random_scene(seed, 64, 20)) for seed in range(12)]
    assert 4 <= sum(alike) < 12, 'scenes in which AJI is defined alike, and others'


@pytest.mark.parametrize('tile', [4, 5])
def test_on_real_tissue_it_agrees_with_cellseg_metrics(tile):
    assert agrees_with_cellseg_metrics(*consep_scene(tile))


# tp, fp, fn, mean_matched_score and panoptic_quality of stardist 0.9.2's `matching(true, predicted)` on `random_scene`.
STARDIST = {
    0: [20, 13, 15, 0.6993384, 0.4113755],
    1: [20, 14, 13, 0.6400372, 0.3821118],
    2: [24, 11, 13, 0.6639584, 0.4426389],
    3: [24, 11, 11, 0.6696874, 0.4592142],
}


@pytest.mark.parametrize('seed', STARDIST)
def test_it_agrees_with_what_stardist_gave(seed):
    counts = count_matches([pair_of(*random_scene(seed))], 3)
    _, sq, pq = panoptic_quality(*counts)
    assert [values[0, -1] for values in (*counts[:3], sq, pq)] == pytest.approx(STARDIST[seed], abs=1e-6)


def test_it_agrees_with_stardist():
    matching = pytest.importorskip('stardist.matching')
    found = [random_scene(seed) for seed in range(5)]
    metrics, images, counts = segmentation_quality([pair_of(*scene) for scene in found], CLASSES)
    for (true, predicted, *_), bpq in zip(found, images['bPQ'], strict=True):
        assert matching.matching(true, predicted).panoptic_quality == pytest.approx(bpq, abs=1e-6)
    true, predicted = zip(*(scene[:2] for scene in found), strict=True)
    pooled = matching.matching_dataset(true, predicted, show_progress=False)
    assert pooled.panoptic_quality == pytest.approx(
        panoptic_quality(*(count[:, -1].sum() for count in counts))[2], abs=1e-6)
    by_image = matching.matching_dataset(true, predicted, by_image=True, show_progress=False)
    assert [by_image.f1, by_image.mean_matched_score, by_image.panoptic_quality] == pytest.approx(
        [metrics['bDQ'], metrics['bSQ'], metrics['bPQ']], abs=1e-6)
