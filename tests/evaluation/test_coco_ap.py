import contextlib
import copy
import io
import json
import math
import os
import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cellseg_mm.evaluation import coco_ap
from cellseg_mm.evaluation.coco_ap import format_table, match_detections, precision_at_recalls, resampled_ap
from cellseg_mm.evaluation.instances import pair_images

CLASSES = 'round', 'long', 'rare'
SIZE = 130, 150
FIGURES = 'AP', 'AP50', 'AP75'
SUFFIXES = '', '_small', '_medium', '_large'


def average_precision(ground_truth, results, max_dets, iou_type='segm', class_agnostic=False):
    names = [c['name'] for c in sorted(ground_truth['categories'], key=lambda c: c['id'])]
    return coco_ap.average_precision(pair_images(ground_truth, results), names, max_dets, iou_type, class_agnostic)


def rle(box, size=SIZE):
    x, y, w, h = box
    mask = np.zeros(size, np.uint8, order='F')
    mask[y:y + h, x:x + w] = 1
    encoded = coco_mask.encode(mask)
    return {'size': list(size), 'counts': encoded['counts'].decode()}


def cell(image_id, category_id, box, **more):
    return {'image_id': image_id, 'category_id': category_id, 'bbox': [float(side) for side in box],
            'segmentation': rle(box), 'area': float(box[2] * box[3]), 'iscrowd': 0, **more}


def scene(cells, num_images=2):
    return {'images': [{'id': i, 'height': SIZE[0], 'width': SIZE[1]} for i in range(num_images)],
            'annotations': [{**c, 'id': i} for i, c in enumerate(cells)],
            'categories': [{'id': i, 'name': name} for i, name in enumerate(CLASSES, 1)]}


def by_pycocotools(ground_truth, results, caps, iou_type):
    """(AP, AP50, AP75) at each cap, of the mean and of each class; NaN without ground truth."""
    ground_truth = copy.deepcopy(ground_truth)
    for number, annotation in enumerate(ground_truth['annotations'], 1):
        annotation['id'] = number
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = ground_truth
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(copy.deepcopy(results)) if results else COCO(), iou_type)
        evaluator.params.maxDets = sorted(caps)
        evaluator.evaluate()
        evaluator.accumulate()
    expected = {}
    for (name, cap), (area, suffix) in product(zip(('dense', 'cap100'), caps, strict=True), enumerate(SUFFIXES)):
        precision = evaluator.eval['precision'][:, :, :, area, evaluator.params.maxDets.index(cap)]
        for figure, chosen in zip(FIGURES, (precision, precision[:1], precision[5:6]), strict=True):
            expected[f'{figure}_{name}{suffix}'] = chosen[chosen > -1].mean() if (chosen > -1).any() else np.nan
            for k, category in enumerate(ground_truth['categories'] if not suffix else ()):
                of_class = chosen[:, :, k]
                expected[f'{figure}_{name}/{category["name"]}'] = of_class.mean() if of_class.min() > -1 else np.nan
    return expected


def random_scene(rng, num_cells, num_detections):
    def boxes(number):
        corners = rng.integers(0, 28, (number, 2))
        # Some are of COCO's medium and large size.
        most = rng.choice([12, 40, 100], (number, 1), p=[0.8, 0.15, 0.05])
        return np.hstack([corners, rng.integers(3, most, (number, 2))]).tolist()
    cells = [cell(int(rng.integers(2)), int(rng.integers(1, 3)), box, iscrowd=int(rng.random() < 0.05))
             for box in boxes(num_cells)]
    results = []
    for box in boxes(num_detections):
        if cells and rng.random() < 0.7:
            box = (np.array(cells[rng.integers(len(cells))]['bbox'], int) + rng.integers(-1, 2, 4)).clip(0, 27).tolist()
        box[2:] = np.maximum(box[2:], 1).tolist()
        found = cell(int(rng.integers(2)), int(rng.integers(1, 4)), box, score=float(rng.integers(5) / 4))
        results.append({key: found[key] for key in ('image_id', 'category_id', 'bbox', 'segmentation', 'score')})
    return scene(cells), results


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 20), st.integers(0, 250), st.sampled_from([30, 100, 1000]),
       st.sampled_from(['segm', 'bbox']))
def test_every_figure_equals_pycocotools_at_the_same_cap(seed, num_cells, num_detections, max_dets, iou_type):
    ground_truth, results = random_scene(np.random.default_rng(seed), num_cells, num_detections)
    expected = by_pycocotools(ground_truth, results, (max_dets, 100), iou_type)
    metrics = average_precision(ground_truth, results, max_dets, iou_type)
    assert metrics.keys() == expected.keys()
    assert metrics == pytest.approx(expected, abs=1e-6, nan_ok=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_class_agnostic_equals_pycocotools_on_one_class(seed):
    ground_truth, results = random_scene(np.random.default_rng(seed), 15, 150)
    one = copy.deepcopy(ground_truth), copy.deepcopy(results)
    one[0]['categories'] = [{'id': 1, 'name': 'any'}]
    for annotation in one[0]['annotations'] + one[1]:
        annotation['category_id'] = 1
    expected = by_pycocotools(*one, (1000, 100), 'segm')
    metrics = average_precision(ground_truth, results, 1000, class_agnostic=True)
    assert metrics == pytest.approx({key: value for key, value in expected.items() if '/' not in key}, abs=1e-6,
                                    nan_ok=True)


def test_the_cap_holds_for_each_image_and_class():
    boxes = [(x, y, 2, 2) for x in range(0, 56, 3) for y in range(0, 40, 3)][:150]
    cells = [cell(0, category, box, score=1.0) for category in (1, 2) for box in boxes]
    metrics = average_precision(scene(cells), cells, 150)
    assert metrics['AP50_dense'] == 1
    assert metrics['AP50_cap100/round'] == metrics['AP50_cap100/long'] == pytest.approx(67 / 101)


def test_detections_beyond_the_dense_cap_do_not_count():
    boxes = [(x, 0, 2, 2) for x in range(0, 40, 2)]
    cells = [cell(0, 1, box, score=1.0) for box in boxes]
    metrics = average_precision(scene(cells), cells, 10)
    assert metrics['AP50_dense/round'] == pytest.approx(51 / 101)
    assert metrics['AP50_cap100/round'] == 1


def test_a_class_without_cells_is_not_counted():
    cells = [cell(0, 1, (2, 2, 8, 8))]
    found = [{**cells[0], 'score': 0.9}, cell(0, 3, (20, 20, 5, 5), score=0.9)]
    metrics = average_precision(scene(cells), found, 1000)
    assert math.isnan(metrics['AP50_dense/rare'])
    assert metrics['AP50_dense/round'] == metrics['AP50_dense'] == 1


def test_no_detection_scores_zero_under_every_key():
    ground_truth = scene([cell(0, category, (2, 2, 8, 8)) for category in (1, 2, 3)])
    keys = {f'{figure}_{cap}{suffix}' for figure in FIGURES for cap in ('dense', 'cap100')
            for suffix in ('', '_small', *(f'/{name}' for name in CLASSES))}
    metrics = average_precision(ground_truth, [], 1000)
    assert {key: value for key, value in metrics.items() if value == value} == dict.fromkeys(keys, 0.0)
    assert {key.rpartition('_')[2] for key in metrics.keys() - keys} == {'medium', 'large'}


@pytest.mark.parametrize('results', [[], [cell(0, 1, (2, 2, 8, 8), score=0.5)]])
def test_without_any_cell_there_is_no_figure(results):
    assert all(map(math.isnan, average_precision(scene([]), results, 1000).values()))
    assert all(map(math.isnan, average_precision(scene([]), results, 1000, class_agnostic=True).values()))


def test_the_annotation_of_id_0_can_be_found():
    cells = [cell(0, 1, (2, 2, 8, 8), score=1.0)]
    assert scene(cells)['annotations'][0]['id'] == 0
    assert average_precision(scene(cells), cells, 1000)['AP_dense/round'] == 1


def test_of_equal_scores_the_first_comes_first():
    right, wrong = cell(0, 1, (2, 2, 8, 8), score=0.5), cell(0, 1, (30, 20, 8, 8), score=0.5)
    assert average_precision(scene([right]), [right, wrong], 1000)['AP50_dense/round'] == 1
    assert average_precision(scene([right]), [wrong, right], 1000)['AP50_dense/round'] == pytest.approx(0.5)


def test_shuffled_categories_keep_their_names():
    cells = [cell(0, 2, (2, 2, 8, 8), score=1.0), cell(0, 1, (20, 2, 8, 8))]
    ground_truth = scene(cells)
    ground_truth['categories'].reverse()
    metrics = average_precision(ground_truth, cells[:1], 1000)
    assert (metrics['AP50_dense/long'], metrics['AP50_dense/round']) == (1, 0)


def test_arguments_stay_as_they_were():
    ground_truth, results = random_scene(np.random.default_rng(0), 10, 50)
    before = copy.deepcopy((ground_truth, results))
    average_precision(ground_truth, results, 1000, class_agnostic=True)
    average_precision(ground_truth, results, 1000)
    assert (ground_truth, results) == before


def test_what_is_to_be_ignored_is_neither_missed_nor_wrong():
    cells = [cell(0, 1, (2, 2, 8, 8)), cell(0, 1, (20, 2, 8, 8), ignore=1)]
    assert average_precision(scene(cells), [{**cells[0], 'score': 0.5}], 1000)['AP50_dense/round'] == 1
    found = [{**cells[0], 'score': 0.5}, {**cells[1], 'score': 0.9}]
    assert average_precision(scene(cells), found, 1000)['AP50_dense/round'] == 1


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_counting_an_image_twice_is_having_it_twice(seed):
    rng = np.random.default_rng(seed)
    ground_truth, results = random_scene(rng, 20, 60)
    pairs = pair_images(ground_truth, results)
    weights = rng.integers(0, 4, (1, len(pairs)))
    repeated = [pair for pair, weight in zip(pairs, weights[0], strict=True) for _ in range(weight)]
    # No two detections have one score, so that there is one order only.
    for pair in pairs:
        pair.predicted.scores[:] = rng.permutation(len(pair.predicted)) + rng.random()
    matches = match_detections(pairs, 3)
    expected = precision_at_recalls(match_detections(repeated, 3), 30)
    for thresholds in (slice(None), slice(1), slice(5, 6)):
        assert resampled_ap(matches, 30, weights, thresholds)[0] == pytest.approx(
            expected[:, thresholds].mean((1, 2)), abs=1e-12, nan_ok=True)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_each_true_cell_is_found_once_at_most(seed):
    pairs = pair_images(*random_scene(np.random.default_rng(seed), 20, 100))
    matches = match_detections(pairs, 3)
    found = matches.matched[:, 0]
    partners = list(zip(matches.image[found], matches.truth[found], strict=True))
    assert len(set(partners)) == len(partners)


def test_the_table_shows_classes_mean_and_gaps():
    metrics = {f'cells/{figure}_{cap}{suffix}': value for figure in FIGURES for cap in ('dense', 'cap100')
               for suffix, value in (('/round', 0.25), ('/long', float('nan')), ('', 0.125))}
    heading, names, *rows = format_table(metrics, ['round', 'long']).splitlines()
    assert 'dense cap' in heading
    assert 'cap 100' in heading
    assert names.split() == ['class', 'AP50', 'AP75', 'AP', 'AP50', 'AP75', 'AP']
    assert [row.split() for row in rows] == [['round', *['0.250'] * 6], ['long', *['-'] * 6], ['mean', *['0.125'] * 6]]
    assert len({len(row) for row in rows}) == 1


@pytest.fixture(scope='module')
def real_cells():
    if 'CELLSEG_REAL_DATA' not in os.environ:
        pytest.skip('CELLSEG_REAL_DATA is not set')
    return json.loads(Path(os.environ['CELLSEG_REAL_DATA'], 'hw3/val_annotations.json').read_text())


def test_a_perfect_detector_of_real_cells_is_limited_by_the_default_cap(real_cells):
    results = [{**annotation, 'score': 1.0} for annotation in real_cells['annotations']]
    metrics = average_precision(real_cells, results, 1000)
    assert metrics['AP_dense'] == metrics['AP50_dense'] == 1
    assert metrics['AP50_cap100'] == pytest.approx(0.693, abs=0.001)


def test_ten_thousand_detections_of_real_cells_equal_pycocotools_and_take_seconds(real_cells):
    rng, results = np.random.default_rng(0), []
    for annotation in rng.permutation(real_cells['annotations']).tolist() + real_cells['annotations'][::2]:
        height, width = annotation['segmentation']['size']
        x, y, w, h = np.array(annotation['bbox'], int) + rng.integers(-2, 3, 4)
        box = max(x, 0), max(y, 0), max(w, 1), max(h, 1)
        category = annotation['category_id'] if rng.random() < 0.9 else int(rng.integers(1, 5))
        results.append({'image_id': annotation['image_id'], 'category_id': category, 'score': float(rng.random()),
                        'segmentation': rle(box, (height, width))})
    results = [result for result in results if coco_mask.area(result['segmentation'])]
    start = time.perf_counter()
    metrics = average_precision(real_cells, results, 1000)
    assert time.perf_counter() - start < 5
    some = {image['id'] for image in real_cells['images'][:12]}
    part = {**real_cells, 'images': real_cells['images'][:12],
            'annotations': [a for a in real_cells['annotations'] if a['image_id'] in some]}
    of_part = [result for result in results if result['image_id'] in some]
    assert average_precision(part, of_part, 1000) == pytest.approx(
        by_pycocotools(part, of_part, (1000, 100), 'segm'), abs=1e-6)
    assert 0.2 < metrics['AP50_cap100'] < metrics['AP50_dense'] < 1
