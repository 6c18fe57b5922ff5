import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rectangles import pair, random_pairs

from cellseg_mm.errors import CellDataError
from cellseg_mm.evaluation.coco_ap import match_detections
from cellseg_mm.evaluation.operating_point import best_thresholds, read_thresholds, write_thresholds

CLASSES = 'round', 'long', 'rare'
CELL, OTHER, FAR = [10, 10, 10, 10], [30, 10, 10, 10], [50, 40, 10, 10]


def thresholds_of(pairs, max_dets=1000, classes=CLASSES):
    return best_thresholds(match_detections(pairs, len(classes)), classes, max_dets)


def f1_by_score(pairs, labels, max_dets):
    """{score: F1} of what COCO's matching makes of the predictions of that score and above alone."""
    found = {}
    for score in np.unique(np.concatenate([image.predicted.scores for image in pairs])).tolist():
        kept = [replace(image, predicted=image.predicted[image.predicted.scores >= score]) for image in pairs]
        matches = match_detections(kept, len(CLASSES))
        chosen = np.isin(matches.label, labels) & (matches.rank < max_dets) & ~matches.ignored[:, 0]
        right = int(matches.matched[chosen, 0].sum())
        found[score] = 2 * right / max(int(chosen.sum()) + int(matches.count[:, labels].sum()), 1)
    return found


@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([2, 1000]), st.integers(2, 3))
@settings(max_examples=30)
def test_thresholds_are_the_best_of_all_and_of_the_best_the_highest(seed, tenths, max_dets, num_labels):
    # With two labels of three classes, the third has neither cells nor predictions.
    pairs = random_pairs(seed, images=2, classes=num_labels, predictions=20, ignored=0.3, tenths=tenths)
    found = thresholds_of(pairs, max_dets)
    matches = match_detections(pairs, 3)
    counts = (matches.rank < max_dets) & ~matches.ignored[:, 0]
    pooled = f1_by_score(pairs, [0, 1, 2], max_dets)
    for label, name in enumerate(CLASSES):
        labels, values = [label], f1_by_score(pairs, [label], max_dets)
        if not max(values.values()):
            labels, values = [0, 1, 2], pooled
        if not max(values.values()):
            assert found[name] == 0.5
            continue
        best = max(score for score, value in values.items() if value == max(values.values()))
        assert found[name] <= best
        below = matches.score[counts & np.isin(matches.label, labels) & (matches.score < best)]
        assert found[name] > below.max(initial=-1)
    assert json.loads(json.dumps(found)) == found


def test_a_threshold_lies_between_scores_in_few_digits():
    predicted = [(0, CELL, 0.8123456), (0, OTHER, 0.6123456), (0, FAR, 0.4123456)]
    assert thresholds_of([pair([(0, CELL), (0, OTHER)], predicted)], classes=['round']) == {'round': 0.5}
    predicted[1:] = [(0, OTHER, 0.41234561), (0, FAR, 0.4123456)]
    found = thresholds_of([pair([(0, CELL), (0, OTHER)], predicted)], classes=['round'])['round']
    assert 0.4123456 < found <= 0.41234561
    assert len(str(found)) <= 11


def test_neighbouring_numbers_are_told_apart():
    low = 0.3
    high = float(np.nextafter(low, 1))
    assert thresholds_of([pair([(0, CELL)], [(0, CELL, high), (0, FAR, low)])], classes=['round']) == {'round': high}


def test_where_everything_is_right_everything_is_accepted():
    score = float(np.float32(0.0512345))
    image = pair([(0, CELL), (0, OTHER)], [(0, CELL, 0.9), (0, OTHER, score)])
    assert thresholds_of([image], classes=['round']) == {'round': score}


def test_of_equal_f1_the_higher_threshold_is_taken():
    # One of one right and one cell missed: 2 / 3. One more right with two more wrong: 4 / 6.
    predicted = [(0, CELL, 0.9), (0, FAR, 0.7), (0, [0, 0, 5, 5], 0.6), (0, OTHER, 0.5)]
    assert thresholds_of([pair([(0, CELL), (0, OTHER)], predicted)], classes=['round']) == {'round': 0.8}


def test_equal_scores_are_accepted_together():
    predicted = [(0, CELL, 0.6), (0, FAR, 0.6), (0, [0, 0, 5, 5], 0.2)]
    assert thresholds_of([pair([(0, CELL)], predicted)], classes=['round']) == {'round': 0.4}


def test_a_class_of_which_nothing_was_found_has_the_threshold_of_all():
    # long has cells and no predictions, rare predictions and no cells, of which the highest would be the best to take.
    predicted = [(0, CELL, 0.8), (2, FAR, 0.6), (2, [0, 0, 5, 5], 0.4)]
    found = thresholds_of([pair([(0, CELL), (1, OTHER)], predicted)])
    assert found == {'round': 0.8, 'long': 0.7, 'rare': 0.7}


@pytest.mark.parametrize('pairs', [[], [pair([], [])], [pair([(0, CELL)], [])], [pair([], [(1, CELL, 0.9)])],
                                   [pair([(0, CELL)], [(0, FAR, 0.9)])]])
def test_where_nothing_is_right_the_threshold_is_a_half(pairs):
    assert thresholds_of(pairs) == dict.fromkeys(CLASSES, 0.5)


def test_ignored_predictions_and_those_beyond_the_cap_have_no_say():
    ignored = (0, FAR, 1, True)
    image = pair([(0, CELL), ignored], [(0, CELL, 0.9), (0, FAR, 0.8), (0, [0, 0, 5, 5], 0.7)])
    assert thresholds_of([image], classes=['round']) == {'round': 0.8}
    image = pair([(0, CELL), (0, OTHER), ignored], [(0, FAR, 0.9), (0, CELL, 0.7), (0, OTHER, 0.3)])
    assert thresholds_of([image], classes=['round']) == {'round': 0.3}
    assert thresholds_of([image], max_dets=2, classes=['round']) == {'round': 0.7}


@given(st.dictionaries(st.text(st.characters(exclude_categories=['Cs'])), st.floats(0, 1)))
@settings(max_examples=30)
def test_reading_returns_what_was_written(tmp_path_factory, thresholds):
    path = tmp_path_factory.mktemp('thresholds') / 'model.thresholds.json'
    write_thresholds(path, thresholds)
    assert list(read_thresholds(path, list(thresholds)[::-1]).items()) == list(thresholds.items())[::-1]


@pytest.mark.parametrize('text', ['', '{', '[0.5]', '{"round": "0.5"}', '{"round": NaN}', '{"round": true}', 'null',
                                  '{"round": 1e999}', '[' * 100000])
def test_a_broken_file_is_refused(tmp_path, text):
    path = tmp_path / 'model.thresholds.json'
    path.write_text(text)
    with pytest.raises(CellDataError, match=r'model.thresholds.json: this is not .*; delete it'):
        read_thresholds(path, ['round'])


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / 'bytes.json').write_bytes(b'\xff\xfe\xff')
    for path in tmp_path / 'missing.json', tmp_path, tmp_path / 'bytes.json':
        with pytest.raises(CellDataError):
            read_thresholds(path, ['round'])


def test_thresholds_of_other_classes_are_refused(tmp_path):
    path = tmp_path / 'model.thresholds.json'
    write_thresholds(path, {'round': 0.5, 'long': 0.4})
    for classes in ['round'], ['round', 'short'], ['round', 'long', 'rare'], []:
        with pytest.raises(CellDataError, match='of the classes round, long'):
            read_thresholds(path, classes)
