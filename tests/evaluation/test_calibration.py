import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rectangles import pair, random_pairs

from cellseg_mm.evaluation.calibration import expected_calibration_error, reliability
from cellseg_mm.evaluation.coco_ap import match_detections

CELL, OTHER, FAR = [10, 10, 10, 10], [30, 10, 10, 10], [50, 40, 10, 10]


def diagram_of(pairs, max_dets=1000, bins=10):
    return reliability(match_detections(pairs, 3), max_dets, bins)


@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([2, 1000]), st.sampled_from([1, 10, 15]))
@settings(max_examples=40)
def test_bins_and_error_are_those_of_the_obvious_loops(seed, tenths, max_dets, bins):
    matches = match_detections(random_pairs(seed, images=2, ignored=0.2, tenths=tenths), 3)
    members = [[] for _ in range(bins)]
    for score, rank, right, ignored in zip(matches.score, matches.rank, matches.matched[:, 0], matches.ignored[:, 0],
                                           strict=True):
        if rank < max_dets and not ignored:
            members[next(k for k in range(bins) if score <= (k + 1) / bins)].append((score, right))
    diagram = reliability(matches, max_dets, bins)
    assert diagram['count'] == [len(member) for member in members]
    means = [np.mean(member, 0) if member else (np.nan, np.nan) for member in members]
    assert diagram['confidence'] == pytest.approx([mean[0] for mean in means], nan_ok=True)
    assert diagram['precision'] == pytest.approx([mean[1] for mean in means], nan_ok=True)
    error = sum(len(member) * abs(mean[1] - mean[0]) for member, mean in zip(members, means, strict=True) if member)
    assert expected_calibration_error(diagram) == pytest.approx(error / sum(diagram['count']))


def test_scores_that_say_how_often_they_are_right_have_no_error():
    image = pair([(0, CELL)], [(0, CELL, 0.5), (0, FAR, 0.5)])
    diagram = diagram_of([image])
    assert diagram['count'] == [0, 0, 0, 0, 2, 0, 0, 0, 0, 0]
    assert (diagram['confidence'][4], diagram['precision'][4]) == (0.5, 0.5)
    assert np.isnan(diagram['precision'][0])
    assert expected_calibration_error(diagram) == 0


def test_the_error_is_weighted_by_predictions():
    # Two of score 0.9, one of them right: 0.4; one of score 0.2, wrong: 0.2.
    image = pair([(0, CELL)], [(0, CELL, 0.9), (0, FAR, 0.9), (0, OTHER, 0.2)])
    assert expected_calibration_error(diagram_of([image])) == pytest.approx((2 * 0.4 + 0.2) / 3)


def test_a_prediction_of_another_class_is_not_right():
    assert expected_calibration_error(diagram_of([pair([(0, CELL)], [(1, CELL, 0.75)])])) == 0.75


def test_bounds_of_scores_have_a_bin():
    image = pair([], [(0, CELL, 0.0), (0, FAR, 1.0)])
    assert diagram_of([image])['count'] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]


def test_ignored_predictions_and_those_beyond_the_cap_are_left_out():
    image = pair([(0, CELL), (0, FAR, 1, True)], [(0, FAR, 0.95), (0, CELL, 0.55), (0, OTHER, 0.25)])
    assert diagram_of([image])['count'] == [0, 0, 1, 0, 0, 1, 0, 0, 0, 0]
    assert diagram_of([image], max_dets=2)['count'] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize('pairs', [[], [pair([], [])], [pair([(0, CELL)], [])]])
def test_without_predictions_the_error_is_unknown(pairs):
    diagram = diagram_of(pairs)
    assert diagram['count'] == [0] * 10
    assert np.isnan(diagram['confidence']).all()
    assert np.isnan(expected_calibration_error(diagram))
