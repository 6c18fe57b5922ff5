import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rectangles import pair, random_pairs

from cellseg_mm.evaluation.coco_ap import average_precision, match_detections
from cellseg_mm.evaluation.error_breakdown import ERRORS, error_breakdown

CELL, FAR = [10, 10, 10, 10], [50, 40, 10, 10]
WELL, HALF, SLIGHTLY = [10, 10, 10, 9], [10, 10, 10, 5], [10, 10, 10, 3]  # IoU 0.9, 0.5 and 0.3 with CELL

# AP50 and what errors cost in the order of ERRORS, by tidecv 1.0.1 on the masks of these scenes.
TIDECV = {
    0: [0.3356750016738367, 0.06901368148019266, 0.23837178891343136, 0.0038875049969983168, 0.01531183146482995,
        0.012033438637981604, 0.09017008143391343],
    1: [0.22053035531296392, 0.026689072512171848, 0.3452955129881518, 0.012488660874369053, 0.006949642332654449,
        0.027126651284054296, 0.04325852875142569],
    2: [0.4107663513604104, 0.008657019548108665, 0.1705994775301715, 0.023089534228148807, 0.015192315934890956,
        0.03373309858458463, 0.07514476722397517],
    3: [0.18143569007478927, 0.05969747301527534, 0.2519102635681941, 0.011929217844574111, 0.00904384063690241,
        0.016167783800449663, 0.02872668219202872]}
TIDECV_ONCE = {
    2: [0.12546259320919181, 0.04011560475106789, 0.40824407188747375, 0.0064540857329224545, 0.0,
        0.01309603524217593, 0.046621355253485944],
    4: [0.17744033514243365, 0.08266607494151394, 0.34947305845255244, 0.02536919857924296, 0.0, 0.008587717291184802,
        0.04657976379664547]}


def breakdown(pairs, num_classes=3, max_dets=1000):
    return error_breakdown(pairs, match_detections(pairs, num_classes), max_dets)


def costs(**of_errors):
    return pytest.approx({**dict.fromkeys(ERRORS, 0), **of_errors}, abs=1e-12)


def iou(box, other):
    width, height = (min(box[k] + box[k + 2], other[k] + other[k + 2]) - max(box[k], other[k]) for k in (0, 1))
    shared = max(0, width) * max(0, height)
    return shared / (box[2] * box[3] + other[2] * other[3] - shared)


def ap50(detections, cells, recalls):
    """COCO's AP of (score, right) by falling score."""
    right, points = 0, []
    for number, (_, hit) in enumerate(detections, 1):
        right += hit
        points.append((right / cells, right / number))
    return np.mean([max((precision for recall, precision in points if recall >= least), default=0)
                    for least in recalls])


def obvious_breakdown(pairs, num_classes, max_dets, as_tidecv=False):
    """AP50 and what errors cost: one dictionary a detection, one loop for each sentence of the definition.

    With `as_tidecv`, a match stays against a higher score that was mended, classification and localisation errors of
    one cell compete with each other, and recalls are 0.07 instead of 7 * 0.01, which is a bit more.
    """
    recalls = [k / 100 for k in range(101)] if as_tidecv else np.linspace(0, 1, 101)
    cells, detections = [], []
    for image in pairs:
        boxes = image.truth.masks.boxes.tolist()
        truth = [{'label': label, 'box': box, 'ignore': ignore, 'match': None} for label, box, ignore
                 in zip(image.truth.labels.tolist(), boxes, image.truth.ignore.tolist(), strict=True)]
        counting = [cell for cell in truth if not cell['ignore']]
        cells += counting
        for label in range(num_classes):
            predicted = [{'label': label, 'box': box, 'score': score} for of, box, score in zip(
                image.predicted.labels, image.predicted.masks.boxes.tolist(), image.predicted.scores, strict=True)
                if of == label]
            for detection in sorted(predicted, key=lambda d: -d['score'])[:max_dets]:
                free = [(not cell['ignore'], iou(cell['box'], detection['box']), k) for k, cell in enumerate(truth)
                        if cell['label'] == label and cell['match'] is None]
                free = [candidate for candidate in free if candidate[1] >= 0.5]
                detection['cell'] = None
                if free:
                    cell = truth[max(free)[2]]
                    cell['match'] = detection
                    if cell['ignore']:
                        continue
                    detection['cell'] = cell
                detection['right'] = bool(free)
                detection['near'] = [max(((iou(cell['box'], detection['box']), -k, cell) for k, cell
                                          in enumerate(counting) if (cell['label'] == label) == same),
                                         default=(0, 0, None), key=lambda near: near[:2]) for same in (True, False)]
                detections.append(detection)
    for detection in detections:
        (own, _, own_cell), (other, _, other_cell) = detection['near']
        if detection['right']:
            detection['error'] = None
        elif 0.1 <= own <= 0.5:
            detection['error'], detection['cell'] = 'localisation', own_cell
        elif other >= 0.5:
            detection['error'], detection['cell'] = 'classification', other_cell
        elif own > 0.5:
            detection['error'] = 'duplicate'
        elif other <= 0.1:
            detection['error'] = 'background'
        else:
            detection['error'] = 'both'
    detections.sort(key=lambda detection: -detection['score'])

    def mean_ap(detections, cells, classes):
        return np.mean([ap50([(d['score'], d['right']) for d in detections if d['label'] == label], number, recalls)
                        if (number := sum(cell['label'] == label for cell in cells)) else 1 for label in classes])

    classes = {cell['label'] for cell in cells}
    if not classes:
        return np.nan, dict.fromkeys(ERRORS, np.nan)
    now, found = mean_ap(detections, cells, classes), {}
    for error in ERRORS:
        left, mended = cells, []
        if error == 'missed':
            left = [cell for cell in cells if not any(d['cell'] is cell for d in detections)]
            left = [cell for cell in cells if not any(cell is missed for missed in left)]
            mended = detections
        for detection in detections if error != 'missed' else ():
            if error in ('classification', 'localisation') and detection['error'] in (None, error):
                rivals = [d for d in detections if d['cell'] is detection['cell'] and d['error'] in (None, error)]
                if as_tidecv:
                    rivals = [d for d in detections if d['cell'] is detection['cell']]
                    rivals.sort(key=lambda d: not d['right'])
                if rivals[0] is detection:
                    mended.append({**detection, 'right': True, 'label': detection['cell']['label']})
            elif detection['error'] != error:
                mended.append(detection)
        mended.sort(key=lambda detection: -detection['score'])
        found[error] = mean_ap(mended, left, classes) - now
    return now, found


@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([0, 0.4]), st.sampled_from([1, 3, 1000]))
@settings(max_examples=60)
def test_costs_are_those_of_the_obvious_loops(seed, tenths, ignored, max_dets):
    pairs = random_pairs(seed, images=2, ignored=ignored, tenths=tenths)
    ap, expected = obvious_breakdown(pairs, 3, max_dets)
    assert breakdown(pairs, max_dets=max_dets) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert average_precision(pairs, 'abc', max_dets)['AP50_dense'] == pytest.approx(ap, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize('seed', TIDECV)
def test_costs_are_those_of_tidecv_but_for_its_claims_on_cells(seed):
    pairs = random_pairs(seed)
    ap, *golden = TIDECV[seed]
    golden = dict(zip(ERRORS, golden, strict=True))
    assert average_precision(pairs, 'abc', 1000)['AP50_dense'] == pytest.approx(ap, abs=1e-9)
    found = breakdown(pairs)
    for error in ('both', 'duplicate', 'background', 'missed'):
        assert found[error] == pytest.approx(golden[error], abs=1e-9)
    for error in ('classification', 'localisation'):
        assert found[error] > golden[error]
    assert obvious_breakdown(pairs, 3, 1000, as_tidecv=True)[1] == pytest.approx(golden, abs=1e-9)


@pytest.mark.parametrize('seed', TIDECV_ONCE)
def test_all_costs_are_those_of_tidecv_where_cells_have_one_prediction(seed):
    pairs = random_pairs(seed, images=8, cells=20, once=True)
    assert list(breakdown(pairs).values()) == pytest.approx(TIDECV_ONCE[seed][1:], abs=1e-9)


def test_perfect_predictions_cost_nothing():
    assert breakdown([pair([(0, CELL), (1, FAR)], [(0, CELL, 0.9), (1, FAR, 0.3)])]) == costs()


def test_a_wrong_class_is_a_classification_error_and_covers_its_cell():
    # Class 1 has no cells and so no part in the mean.
    assert breakdown([pair([(0, CELL)], [(1, WELL, 0.9)])]) == costs(classification=1)


def test_a_wrong_class_takes_a_cell_from_a_match_of_lower_score_only():
    background = (0, FAR, 0.7)
    # As it is, the right one comes second or last of class 0; once the other has its place, first.
    assert breakdown([pair([(0, CELL)], [(0, CELL, 0.5), (1, WELL, 0.9), background])]) == costs(
        classification=0.5, background=0.5)
    assert breakdown([pair([(0, CELL)], [(0, CELL, 0.5), (1, WELL, 0.4), background])]) == costs(background=0.5)


def test_a_poor_outline_is_a_localisation_error():
    assert breakdown([pair([(0, CELL)], [(0, SLIGHTLY, 0.9)])]) == costs(localisation=1)


def test_only_the_best_of_poor_outlines_finds_the_cell():
    # Mended, one is right and the other gone; the cell of FAR comes third before, second after.
    found = breakdown([pair([(0, CELL), (0, FAR)], [(0, SLIGHTLY, 0.9), (0, SLIGHTLY, 0.8), (0, FAR, 0.7)])])
    before = 51 / 101 / 3
    assert found == costs(localisation=1 - before)


def test_a_poor_outline_of_another_class_is_both_and_covers_no_cell():
    found = breakdown([pair([(0, CELL), (1, FAR)], [(1, SLIGHTLY, 0.9), (1, FAR, 0.5)])])
    # Class 0: 0 before, perfect once its cell does not count; class 1: a half before, 1 once the first is gone.
    assert found == costs(both=0.25, missed=0.5)


def test_a_second_prediction_of_a_cell_is_a_duplicate():
    found = breakdown([pair([(0, CELL), (0, FAR)], [(0, CELL, 0.9), (0, WELL, 0.8), (0, FAR, 0.7)])])
    assert found == costs(duplicate=1 - (51 + 50 * 2 / 3) / 101)


def test_a_prediction_of_nothing_is_background():
    assert breakdown([pair([(0, CELL)], [(0, FAR, 0.9), (0, CELL, 0.8)])]) == costs(background=0.5)


def test_a_cell_without_prediction_is_missed():
    # Recall ends at a half before.
    assert breakdown([pair([(0, CELL), (0, FAR)], [(0, CELL, 0.9)])]) == costs(missed=50 / 101)


@pytest.mark.parametrize(('box', 'label', 'error'), [
    (HALF, 1, 'classification'), ([10, 10, 10, 1], 0, 'localisation'), ([10, 10, 10, 1], 1, 'background')])
def test_limits_of_iou(box, label, error):
    # An IoU of exactly 0.5, or of 0.1, beside a match of lower score.
    found = breakdown([pair([(0, CELL), (1, FAR)], [(label, box, 0.9), (0, CELL, 0.5), (1, FAR, 0.5)])])
    assert [name for name, cost in found.items() if cost > 0] == [error]


def test_an_iou_of_a_half_is_a_match():
    assert breakdown([pair([(0, CELL)], [(0, HALF, 0.9)])]) == costs()


def test_without_predictions_everything_is_missed():
    assert breakdown([pair([(0, CELL), (1, FAR)], [])]) == costs(missed=1)


@pytest.mark.parametrize('pairs', [[], [pair([], [])], [pair([], [(0, CELL, 0.9)])], [pair([(0, CELL, 1, True)], [])]])
def test_without_cells_no_cost_is_known(pairs):
    assert all(np.isnan(cost) for cost in breakdown(pairs).values())


def test_predictions_in_images_without_cells_are_background():
    assert breakdown([pair([(0, CELL)], [(0, CELL, 0.5)]), pair([], [(0, CELL, 0.9)], 2)]) == costs(background=0.5)


def test_what_matches_an_ignored_cell_is_no_error_and_that_cell_is_not_missed():
    assert breakdown([pair([(0, CELL), (0, FAR, 1, True)], [(0, FAR, 0.9), (0, CELL, 0.5)])]) == costs()
    assert breakdown([pair([(0, CELL), (0, FAR, 1, True)], [(0, CELL, 0.5)])]) == costs()


def test_what_matches_an_ignored_cell_finds_no_other():
    assert breakdown([pair([(0, CELL), (0, SLIGHTLY, 1, True)], [(0, SLIGHTLY, 0.9)])]) == costs(missed=1)


def test_of_cells_of_equal_iou_the_first_was_meant():
    # Between two cells, of which the second is found: the first gets it.
    found = breakdown([pair([(0, [0, 0, 10, 10]), (0, [20, 0, 10, 10])],
                            [(0, [5, 0, 20, 10], 0.9), (0, [20, 0, 10, 10], 0.8)])])
    assert found == costs(localisation=1 - 51 / 101 / 2)


def test_beyond_the_cap_nothing_counts():
    found = breakdown([pair([(0, CELL), (0, FAR)], [(0, CELL, 0.9), (0, FAR, 0.8)])], max_dets=1)
    assert found == costs(missed=50 / 101)


@given(st.integers(0, 10**6))
@settings(max_examples=25)
def test_order_is_of_no_account(seed):
    pairs, rng = random_pairs(seed, ignored=0.1), np.random.default_rng(seed)
    for image in pairs:  # Of equal IoU with two cells, the order has to decide.
        i, j, area = image.overlaps
        ratio = area / (image.truth.masks.areas[i] + image.predicted.masks.areas[j] - area)
        assume(len(set(zip(j.tolist(), ratio.tolist(), strict=True))) == len(j))
    shuffled = [replace(image, truth=image.truth[rng.permutation(len(image.truth))],
                        predicted=image.predicted[rng.permutation(len(image.predicted))]) for image in pairs]
    assert breakdown([shuffled[k] for k in rng.permutation(len(shuffled))]) == pytest.approx(breakdown(pairs))


@given(st.integers(0, 10**6))
@settings(max_examples=25)
def test_mending_never_harms(seed):
    pairs = random_pairs(seed, tenths=True)
    found = breakdown(pairs)
    assert min(found.values()) >= -1e-12
    assert max(found.values()) <= 1 - average_precision(pairs, 'abc', 1000)['AP50_dense'] + 1e-12


def test_thousands_of_cells_take_a_moment():
    pairs = random_pairs(0, images=400, cells=20, predictions=60)
    assert sum(len(image.predicted) for image in pairs) > 15000
    matches = match_detections(pairs, 3)
    error_breakdown(pairs[:1], match_detections(pairs[:1], 3), 1000)
    start = time.perf_counter()
    error_breakdown(pairs, matches, 1000)
    assert time.perf_counter() - start < 1
