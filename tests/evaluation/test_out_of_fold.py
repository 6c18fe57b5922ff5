import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import CLASSES, random_scene

from cellseg_mm.evaluation.coco_ap import average_precision, match_detections
from cellseg_mm.evaluation.detection import detection_quality
from cellseg_mm.evaluation.evaluate import evaluate
from cellseg_mm.evaluation.instances import pair_images
from cellseg_mm.evaluation.operating_point import best_thresholds
from cellseg_mm.evaluation.out_of_fold import NOTES, evaluate_folds, format_folds, summarise
from cellseg_mm.evaluation.panoptic import count_matches, segmentation_quality

MAX_DETS = 8


def fold_of(seed, number, **options):
    """The images of a random scene, under ids and in groups of their own."""
    return [replace(pair, image_id=pair.image_id + 100 * number, group=f'{pair.group} of fold {number}')
            for pair in pair_images(*random_scene(seed, **options))]


@settings(max_examples=10)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=4))
def test_each_fold_is_scored_at_the_operating_point_of_the_others(seeds):
    folds = [fold_of(seed, number, images=3) for number, seed in enumerate(seeds)]
    alone, pooled = evaluate_folds(folds, CLASSES, MAX_DETS, replicates=0)
    confident = []
    for number, fold in enumerate(folds):
        others = [pair for other in folds[:number] + folds[number + 1:] for pair in other]
        thresholds = best_thresholds(match_detections(others, 3), CLASSES, MAX_DETS)
        assert alone[number]['thresholds'] == thresholds
        expected = evaluate(fold, CLASSES, MAX_DETS, thresholds, replicates=0)['metrics']
        assert alone[number]['metrics'] == pytest.approx(expected, nan_ok=True)
        confident += [pair.confident(list(thresholds.values())) for pair in fold]
    everything = [pair for fold in folds for pair in fold]
    counts = count_matches(confident, len(CLASSES))
    for of_metrics in (average_precision(everything, CLASSES, MAX_DETS), detection_quality(confident, counts, CLASSES),
                       segmentation_quality(confident, CLASSES)[0]):
        assert {name: pooled['metrics'][name] for name in of_metrics} == pytest.approx(of_metrics, nan_ok=True)
    assert [record['image_id'] for record in pooled['per_image']] == [pair.image_id for pair in everything]
    assert [record['predictions'] for record in pooled['per_image']] == [len(pair.predicted) for pair in confident]


def test_folds_of_one_operating_point_pool_to_what_all_images_give_at_it():
    folds = [fold_of(5, number) for number in range(2)]
    alone, pooled = evaluate_folds(folds, CLASSES, MAX_DETS, replicates=50)
    assert alone[0]['thresholds'] == alone[1]['thresholds']
    whole = evaluate(folds[0] + folds[1], CLASSES, MAX_DETS, alone[0]['thresholds'], replicates=50)
    own = {'thresholds', 'thresholds_from'}
    for part in whole.keys() - own:
        np.testing.assert_equal(pooled[part], whole[part], part)
    assert pooled.keys() == whole.keys()


def test_the_order_of_folds_and_images_changes_nothing():
    folds = [fold_of(seed, seed) for seed in (1, 2, 3)]
    pooled = evaluate_folds(folds, CLASSES, MAX_DETS, replicates=20)[1]
    turned = evaluate_folds([fold[::-1] for fold in folds[::-1]], CLASSES, MAX_DETS, replicates=20)[1]
    np.testing.assert_equal(turned, pooled)


def test_thresholds_that_do_not_carry_over_cost_a_fold_its_f1_but_no_ap():
    sure, timid = fold_of(4, 0, quality=1), fold_of(4, 1, quality=1)
    timid = [replace(pair, predicted=replace(pair.predicted, scores=pair.predicted.scores / 1e6)) for pair in timid]
    (first, second), pooled = evaluate_folds([sure, timid], CLASSES, MAX_DETS, replicates=0)
    assert first['metrics']['F1'] > 0.5
    assert second['metrics']['F1'] == 0
    assert 0 < pooled['metrics']['F1'] < first['metrics']['F1']
    assert second['metrics']['AP50_dense'] == first['metrics']['AP50_dense']


def evaluation_of(classes=('a', 'b'), **metrics):
    names = ('AP50_dense', 'AP50_cap100', 'AP_dense', 'bPQ', 'mPQ', 'AJI', 'Dice', 'F1',
             *(f'AP50_dense/{name}' for name in classes))
    values = dict.fromkeys(names, 0.5) | metrics
    return {'classes': classes, 'metrics': values, 'intervals': {name: [value - 0.1, value + 0.1] for name, value in
            values.items()}, 'cells': 1234, 'images': 7, 'groups': 3}


def test_the_spread_is_of_the_folds_that_have_the_class():
    folds = [evaluation_of(**{'AP50_dense/a': a, 'AP50_dense/b': b})
             for a, b in ((0.2, math.nan), (0.4, math.nan), (0.9, 0.3))]
    rows = {row.name: row for row in summarise(folds, evaluation_of())}
    assert rows['AP50_dense/a'].mean == pytest.approx(0.5)
    assert rows['AP50_dense/a'].deviation == pytest.approx(np.std([0.2, 0.4, 0.9], ddof=1))
    assert rows['AP50_dense/b'].mean == 0.3
    assert math.isnan(rows['AP50_dense/b'].deviation)
    assert rows['F1'].deviation == 0
    assert rows['F1'].pooled == 0.5
    assert rows['F1'].interval == [0.4, 0.6]


def test_the_table_shows_every_figure_and_how_to_read_it():
    pooled = evaluation_of(F1=0.75)
    text = format_folds(summarise([evaluation_of(F1=0.7), evaluation_of(F1=math.nan)], pooled), pooled)
    line, = (line for line in text.splitlines() if line.startswith('F1'))
    assert line.split()[-7:] == ['0.700', '-', '0.700', '-', '0.750', '[0.650,', '0.850]']
    assert '1,234 cells in 7 images of 3 groups (few' in text
    assert all(' '.join(note.split()) in ' '.join(text.split()) for note in NOTES)
    assert max(map(len, text.splitlines())) <= 110
