import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import CLASSES, random_scene

from cellseg_mm.evaluation.evaluate import evaluate, format_comparison, format_evaluation
from cellseg_mm.evaluation.evidence import compare, gather
from cellseg_mm.evaluation.instances import pair_images


def pairs_of(seed, **options):
    return pair_images(*random_scene(seed, **options))


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_figures_of_each_image_once_are_the_metrics(seed):
    pairs = pairs_of(seed)
    found = evaluate(pairs, CLASSES, 30, replicates=0)
    figures = gather(pairs, CLASSES, 30).figures(np.ones((1, len(pairs))))
    assert {name: values[0] for name, values in figures.items()} == pytest.approx(
        {name: found['metrics'][name] for name in figures}, nan_ok=True)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_figures_of_one_image_alone_are_those_of_evaluating_it_alone(seed, chosen):
    pairs = pairs_of(seed)
    whole = evaluate(pairs, CLASSES, 30, replicates=0)
    alone = evaluate(pairs[chosen:chosen + 1], CLASSES, 30, whole['thresholds'], 'elsewhere', replicates=0)
    row = whole['per_image'][chosen]
    assert (row['image_id'], row['name'], row['group']) == (chosen + 1, f'{chosen + 1}.tif', f'g{(chosen + 1) % 3}')
    assert row == pytest.approx(alone['per_image'][0], nan_ok=True)
    for column, name in (('AP50', 'AP50_dense'), ('PQ', 'bPQ'), ('AJI', 'AJI'), ('Dice', 'Dice'), ('F1', 'F1'),
                         ('DQ', 'bDQ'), ('SQ/long', 'SQ/long'), ('PQ/rare', 'PQ/rare')):
        assert row[column] == pytest.approx(alone['metrics'][name], nan_ok=True)
    assert alone['thresholds_from'] == 'elsewhere'


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_images_annotations_and_results_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    truth, results = random_scene(seed)
    # Ties of scores are settled by order, as in COCOeval.
    for place, result in enumerate(results):
        result['score'] = (place + 1) / (len(results) + 1)
    before = evaluate(pair_images(truth, results), CLASSES, 30)
    for cells in (truth['images'], truth['annotations'], truth['categories'], results):
        rng.shuffle(cells)
    after = evaluate(pair_images(truth, results), CLASSES, 30)
    for part in ('metrics', 'errors', 'thresholds'):
        assert after[part] == pytest.approx(before[part], nan_ok=True)
    assert after['confusion'] == before['confusion']


def test_intervals_hold_the_metric_and_are_those_of_whole_groups():
    pairs = pairs_of(1, images=30)
    found = evaluate(pairs, CLASSES, 30)
    for name, (low, high) in found['intervals'].items():
        assert low <= found['metrics'][name] <= high
    assert found['groups'] == 3


def test_one_group_tells_nothing_about_others():
    truth, results = random_scene(1)
    for image in truth['images']:
        image['group'] = 'one'
    pairs = pair_images(truth, results)
    found = evaluate(pairs, CLASSES, 30)
    assert np.isnan(list(found['intervals'].values())).all()
    assert 'no intervals, since all images are of one group' in format_evaluation(found)
    comparison = compare(gather(pairs, CLASSES, 30), gather(pair_images(truth, results[::2]), CLASSES, 30))
    assert all(np.isnan(figure['interval']).all() for figure in comparison.values())
    assert 'nan' not in format_comparison(comparison, 1)


def test_a_perfect_model_is_perfect_in_everything():
    truth, _ = random_scene(2)
    results = [{**cell, 'score': 0.9} for cell in truth['annotations']]
    # A label map has no overlaps: neither has this truth.
    pairs = [pair.confident([0, 0, 0]) for pair in pair_images(truth, results)]
    found = evaluate([replace(pair, truth=pair.predicted) for pair in pairs], CLASSES, 1000)
    metrics = found['metrics']
    ones = 'AP_dense', 'AP_cap100', 'box_AP_dense', 'bPQ', 'mPQ', 'mPQ+', 'AJI', 'AJI+', 'Dice', 'F1', 'F1_centroid'
    assert [metrics[name] for name in ones] == pytest.approx([1] * len(ones))
    assert all(value == pytest.approx(0, abs=1e-9) for value in found['errors'].values())
    assert (np.array(found['confusion']) == np.diag(np.diag(found['confusion']))).all()
    assert metrics['ECE'] == pytest.approx(0.1)


@pytest.mark.parametrize(('cells', 'predictions'), [(False, False), (False, True), (True, False)])
def test_nothing_to_find_and_nothing_found_are_evaluated_too(cells, predictions):
    truth, results = random_scene(3)
    truth['annotations'] = truth['annotations'] if cells else []
    found = evaluate(pair_images(truth, results if predictions else []), CLASSES, 30)
    value = found['metrics']['AP50_dense']
    assert value == 0 if cells else math.isnan(value)
    value = found['metrics']['bPQ']
    assert value == 0 if cells or predictions else math.isnan(value)
    assert len(found['per_image']) == 6


def test_all_of_it_can_be_written_as_json():
    found = evaluate(pairs_of(4), CLASSES, 30)
    assert repr(json.loads(json.dumps(found))) == repr(found)


def test_a_model_does_not_differ_from_itself():
    evidence = gather(pairs_of(5), CLASSES, 30)
    for figure in compare(evidence, evidence, 200).values():
        difference, p = figure['difference'], figure['p']
        assert math.isnan(difference) or (difference, figure['interval'], p) == (0, [0, 0], 1)


def test_a_model_that_finds_more_is_better_by_more_than_chance():
    truth, results = random_scene(6, images=24, quality=0.9)
    for image in truth['images']:
        image['group'] = image['file_name']
    evidence = [gather(pair_images(truth, part), CLASSES, 30) for part in (results[::2], results)]
    found = compare(*evidence)
    back = compare(*evidence[::-1])
    for name in ('AP50_dense', 'F1', 'bPQ', 'Dice'):
        figure = found[name]
        assert figure['difference'] == figure['second'] - figure['first'] > 0
        assert figure['interval'][0] > 0
        assert figure['p'] < 0.01
        assert back[name]['difference'] == -figure['difference']
        assert back[name]['p'] == pytest.approx(figure['p'], abs=0.01)


def test_with_three_groups_no_difference_can_be_significant():
    truth, results = random_scene(6, images=24, quality=0.9)
    found = compare(*(gather(pair_images(truth, part), CLASSES, 30) for part in (results[::2], results)))
    assert found['AP50_dense']['p'] == 2 / 2**3
