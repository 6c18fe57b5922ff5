import json
import logging
import math
import tracemalloc

import numpy as np
import pytest
import torch
from mmdet.registry import METRICS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask

from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.evaluation.cell_metric import CellMetric, coco_results
from cellseg_mm.structures.local_masks import LocalMasks

CLASSES = 'round', 'long'
SIZE = 30, 40


def square(x, y, side, size=SIZE):
    mask = np.zeros(size, bool)
    mask[y:y + side, x:x + side] = True
    return mask


def rle_of(mask):
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {'size': list(mask.shape), 'counts': rle['counts'].decode()}


def polygons_of(mask):
    """The outline of a square, of no square none."""
    if not mask.any():
        return [np.zeros(6)]
    (top, left), (bottom, right) = np.argwhere(mask).min(0), np.argwhere(mask).max(0) + 1
    return [np.array([left, top, right, top, right, bottom, left, bottom], float)]


FORMS = {
    'local': LocalMasks.from_bitmaps,
    'tensor': torch.from_numpy,
    'array': np.asarray,
    'bitmaps': lambda masks: BitmapMasks(masks.astype(np.uint8), *masks.shape[1:]),
    'polygons': lambda masks: PolygonMasks([polygons_of(mask) for mask in masks], *masks.shape[1:]),
    'rles': lambda masks: [coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask in masks],
    'rles of text': lambda masks: [rle_of(mask) for mask in masks]}
CELLS = {5: [(1, square(2, 3, 8)), (2, square(20, 3, 10))], 9: [(2, square(5, 5, 6))], 11: []}


@pytest.fixture
def ann_file(tmp_path):
    annotations = [{'id': i, 'image_id': image, 'category_id': 10 * category, 'iscrowd': 0, 'area': float(mask.sum()),
                    'bbox': coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask, np.uint8))).tolist(),
                    'segmentation': rle_of(mask)}
                   for i, (image, category, mask) in enumerate(
                       (image, *cell) for image, cells in CELLS.items() for cell in cells)]
    path = tmp_path / 'val.json'
    path.write_text(json.dumps({
        'images': [{'id': i, 'file_name': f'{i}.tif', 'height': SIZE[0], 'width': SIZE[1]} for i in CELLS],
        'annotations': annotations,
        'categories': [{'id': 10, 'name': 'round'}, {'id': 20, 'name': 'long'}]}))
    return path


def sample(image_id, cells, form='local', size=SIZE):
    """What a detector returns: `cells` as (label, mask)."""
    masks = np.stack([mask for _, mask in cells]) if cells else np.zeros((0, *size), bool)
    boxes = [[*np.argwhere(m).min(0)[::-1], *np.argwhere(m).max(0)[::-1] + 1] if m.any() else [0] * 4 for m in masks]
    return DetDataSample(
        metainfo={'img_id': image_id, 'ori_shape': size},
        pred_instances=InstanceData(
            bboxes=torch.tensor(np.array(boxes, np.float32).reshape(-1, 4)), masks=FORMS[form](masks),
            scores=torch.linspace(0.9, 0.5, len(cells)), labels=torch.tensor([label for label, _ in cells], dtype=int)))


def perfect(form='local'):
    return [sample(i, [(category - 1, mask) for category, mask in cells], form) for i, cells in CELLS.items()]


def evaluate(samples, size=None, classes=CLASSES, **config):
    evaluator = Evaluator(METRICS.build(dict(type='CellMetric', **config)))
    evaluator.dataset_meta = {'classes': classes}
    for start in range(0, len(samples), 2):
        evaluator.process(samples[start:start + 2])
    return evaluator.evaluate(size or len(samples))


@pytest.mark.parametrize('form', FORMS)
def test_a_perfect_model_scores_one_whatever_form_its_masks_have(ann_file, form):
    metrics = evaluate(perfect(form), ann_file=str(ann_file))
    calibration = metrics.pop('cells/ECE')
    assert set(metrics.values()) == {1.0}
    assert metrics.keys() >= {
        'cells/AP50_dense', 'cells/AP75_cap100/long', 'cells/box_AP_dense', 'cells/mPQ', 'cells/F1'}
    assert not {'cells/box_AP_dense/long', 'cells/AP_dense_small'} & metrics.keys()
    assert calibration == pytest.approx(0.3, abs=0.1)


def test_a_class_named_after_a_size_is_not_left_out(ann_file):
    ann_file.write_text(ann_file.read_text().replace('"long"', '"cell_large"'))
    metrics = evaluate(perfect(), ann_file=str(ann_file), classes=('round', 'cell_large'))
    assert metrics['cells/AP50_dense/cell_large'] == metrics['cells/PQ/cell_large'] == 1


def test_truth_may_have_any_form_that_training_takes(ann_file):
    truth = json.loads(ann_file.read_text())
    first, second, third = truth['annotations']
    first['segmentation'] = [[2, 3, 10, 3, 10, 11, 2, 11]]
    second['segmentation'] = [20, 3, 30, 3, 30, 13, 20, 13]
    third['segmentation']['size'] = [30.0, 40.0]
    for cell in truth['annotations']:
        del cell['area'], cell['bbox']
        cell['iscrowd'] = None
    ann_file.write_text(json.dumps(truth))
    assert evaluate(perfect(), ann_file=str(ann_file))['cells/AP_dense'] == 1


def test_truth_that_training_would_refuse_is_refused(ann_file):
    truth = json.loads(ann_file.read_text())
    truth['annotations'][1]['segmentation']['counts'] = 'b0'
    ann_file.write_text(json.dumps(truth))
    with pytest.raises(CellDataError, match=r'annotation 1 of image 5\.tif: its RLE counts do not add up'):
        evaluate(perfect(), ann_file=str(ann_file))


def test_a_model_that_finds_nothing_scores_zero_under_its_keys(ann_file, tmp_path):
    results_file = tmp_path / 'found' / 'cells.json'
    metrics = evaluate([sample(i, []) for i in CELLS], ann_file=str(ann_file), results_file=str(results_file))
    assert metrics['cells/AP50_dense'] == 0
    # No prediction is precise or calibrated.
    unknown = {name for name, value in metrics.items() if math.isnan(value)}
    assert unknown == {'cells/ECE', 'cells/precision', 'cells/precision/round', 'cells/precision/long'}
    assert {value for name, value in metrics.items() if name not in unknown} == {0.0}
    assert json.loads(results_file.read_text()) == []


def test_detections_are_written_as_coco_results(ann_file, tmp_path):
    evaluate(perfect(), ann_file=str(ann_file), results_file=tmp_path / 'cells.json')
    first, second, third = json.loads((tmp_path / 'cells.json').read_text())
    assert first == {'image_id': 5, 'category_id': 10, 'bbox': [2, 3, 8, 8], 'score': pytest.approx(0.9),
                     'segmentation': rle_of(square(2, 3, 8))}
    assert (second['category_id'], third['category_id'], third['image_id']) == (20, 20, 9)


def test_images_added_to_even_out_ranks_do_not_count(ann_file):
    assert evaluate([*perfect(), perfect()[0]], size=3, ann_file=str(ann_file))['cells/AP50_dense'] == 1


def test_images_not_predicted_count_as_missed_and_are_reported(ann_file, caplog):
    from mmengine.logging import MMLogger
    logger = MMLogger.get_instance('cell_metric_test')
    logger.addHandler(caplog.handler)
    metrics = evaluate(perfect()[:1], ann_file=str(ann_file))
    assert metrics['cells/AP50_dense/long'] == pytest.approx(51 / 101)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        '2 of 3 images were not predicted: their cells count as missed']


@pytest.mark.parametrize('form', FORMS)
def test_results_are_the_same_whatever_form_masks_have_and_empty_ones_are_dropped(form):
    cells = [(0, square(2, 3, 8)), (1, np.zeros(SIZE, bool)), (1, square(0, 0, 1)), (0, square(30, 20, 10))]
    found = coco_results(sample(5, cells, form).to_dict(), [10, 20])
    scores = np.linspace(0.9, 0.5, 4, dtype=np.float32).tolist()
    assert found == [
        {'image_id': 5, 'category_id': category, 'bbox': box, 'score': pytest.approx(score),
         'segmentation': rle_of(cells[i][1])}
        for i, category, box, score in ((0, 10, [2, 3, 8, 8], scores[0]), (2, 20, [0, 0, 1, 1], scores[2]),
                                        (3, 10, [30, 20, 10, 10], scores[3]))]


@pytest.mark.parametrize('form', FORMS)
def test_an_image_without_detections_has_no_results(form):
    assert coco_results(sample(5, [], form).to_dict(), [10, 20]) == []


def test_boxes_are_those_of_the_masks_for_models_without_boxes():
    prediction = sample(5, [(0, square(2, 3, 8))])
    prediction.pred_instances.bboxes = torch.zeros(1, 4)
    assert coco_results(prediction.to_dict(), [1, 2])[0]['bbox'] == [2, 3, 8, 8]


def test_boxes_of_the_model_are_kept_when_asked_for():
    prediction = sample(5, [(0, square(2, 3, 8)), (0, np.zeros(SIZE, bool)), (1, square(9, 9, 3))])
    prediction.pred_instances.bboxes = torch.tensor([[1.5, 3, 10, 11], [0, 0, 5, 5], [0, 0, 0, 0]])
    boxes = [result['bbox'] for result in coco_results(prediction.to_dict(), [1, 2], model_boxes=True)]
    assert boxes == [[1.5, 3, 8.5, 8], [9, 9, 3, 3]]


def test_memory_grows_with_the_cells_not_with_cells_times_canvas():
    rng = np.random.default_rng(0)
    boxes = np.column_stack([rng.integers(0, 3980, (2000, 2)), np.full((2000, 2), 20)])
    masks = LocalMasks(np.ones(2000 * 400), boxes, 4000, 4000)
    prediction = DetDataSample(metainfo={'img_id': 1, 'ori_shape': (4000, 4000)}, pred_instances=InstanceData(
        masks=masks, scores=torch.rand(2000), labels=torch.zeros(2000, dtype=int))).to_dict()
    coco_results(prediction, [1])
    tracemalloc.start()
    results = coco_results(prediction, [1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # One canvas has 16 MB, all of them have 32 GB.
    assert peak < 8e6
    assert [result['bbox'] for result in results] == boxes.tolist()


def test_half_precision_predictions_are_read():
    prediction = sample(5, [(0, square(2, 3, 8))])
    prediction.pred_instances.scores = prediction.pred_instances.scores.bfloat16()
    prediction.pred_instances.bboxes = prediction.pred_instances.bboxes.bfloat16()
    result, = coco_results(prediction.to_dict(), [1, 2])
    assert result['bbox'] == [2, 3, 8, 8]
    assert result['score'] == pytest.approx(0.9, abs=0.01)


def test_results_are_plain_values_that_json_can_write():
    result, = coco_results(sample(np.int64(5), [(1, square(2, 3, 8))]).to_dict(), [1, 2])
    assert json.loads(json.dumps(result)) == result


@pytest.mark.parametrize('label', [2, -1])
def test_a_label_without_class_is_refused(label):
    with pytest.raises(UserError, match=f'label {label}, and there are 2 classes'):
        coco_results(sample(5, [(label, square(2, 3, 8))]).to_dict(), [1, 2])


@pytest.mark.parametrize('form', FORMS)
def test_masks_of_another_size_than_the_image_are_refused(form):
    prediction = sample(5, [(0, square(2, 3, 8))], form).to_dict()
    prediction['ori_shape'] = (60, 80)
    with pytest.raises(UserError, match=r'mask of \[30, 40\] pixels .* image 5 of \[60, 80\]'):
        coco_results(prediction, [1, 2])


def test_a_model_without_masks_is_refused():
    prediction = sample(5, [(0, square(2, 3, 8))]).to_dict()
    del prediction['pred_instances']['masks']
    with pytest.raises(UserError, match='boxes only'):
        coco_results(prediction, [1, 2])


def test_more_masks_than_scores_are_refused():
    prediction = sample(5, [(0, square(2, 3, 8))]).to_dict()
    prediction['pred_instances']['masks'] = torch.zeros(2, *SIZE, dtype=torch.bool)
    with pytest.raises(ValueError, match='2 masks, 1 labels and 1 scores'):
        coco_results(prediction, [1, 2])


@pytest.mark.parametrize('classes', [('long', 'round'), ('round',), ('round', 'long', 'rare')])
def test_other_classes_than_the_annotations_have_are_refused(ann_file, classes):
    with pytest.raises(CellDataError, match='classes'):
        evaluate(perfect(), classes=classes, ann_file=str(ann_file))


def test_a_missing_annotation_file_is_named(tmp_path):
    metric = CellMetric(ann_file=str(tmp_path / 'val.json'))
    metric.dataset_meta = {'classes': CLASSES}
    with pytest.raises(CellDataError, match=r'val\.json.*prepare_data'):
        metric.process({}, [perfect()[0].to_dict()])
