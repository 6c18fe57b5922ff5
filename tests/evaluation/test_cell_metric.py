import json
import logging

import numpy as np
import pytest
import torch
from mmdet.registry import METRICS
from mmdet.structures import DetDataSample
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask

from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.evaluation.cell_metric import CellMetric, coco_results
from cellseg_mm.structures.rle import encode_mask

CLASSES = 'round', 'long'
SIZE = 30, 40


def square(x, y, side, size=SIZE):
    mask = np.zeros(size, bool)
    mask[y:y + side, x:x + side] = True
    return mask


CELLS = {5: [(1, square(2, 3, 8)), (2, square(20, 3, 10))], 9: [(2, square(5, 5, 6))], 11: []}


@pytest.fixture
def ann_file(tmp_path):
    annotations = [{'id': i, 'image_id': image, 'category_id': 10 * category, 'iscrowd': 0, 'area': float(mask.sum()),
                    'bbox': coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask, np.uint8))).tolist(),
                    'segmentation': encode_mask(mask)}
                   for i, (image, category, mask) in enumerate(
                       (image, *cell) for image, cells in CELLS.items() for cell in cells)]
    path = tmp_path / 'val.json'
    path.write_text(json.dumps({
        'images': [{'id': i, 'height': SIZE[0], 'width': SIZE[1]} for i in CELLS], 'annotations': annotations,
        'categories': [{'id': 10, 'name': 'round'}, {'id': 20, 'name': 'long'}]}))
    return path


def sample(image_id, cells, kind='tensor', size=SIZE):
    """What a detector returns: `cells` as (label, mask)."""
    masks = np.stack([mask for _, mask in cells]) if cells else np.zeros((0, *size), bool)
    boxes = [[*np.argwhere(m).min(0)[::-1], *np.argwhere(m).max(0)[::-1] + 1] if m.any() else [0] * 4 for m in masks]
    masks = {'tensor': torch.from_numpy, 'array': np.asarray,
             'rle': lambda masks: [coco_mask.encode(np.asfortranarray(m, np.uint8)) for m in masks]}[kind](masks)
    return DetDataSample(
        metainfo={'img_id': image_id, 'ori_shape': size},
        pred_instances=InstanceData(
            bboxes=torch.tensor(np.array(boxes, np.float32).reshape(-1, 4)), masks=masks,
            scores=torch.linspace(0.9, 0.5, len(cells)), labels=torch.tensor([label for label, _ in cells], dtype=int)))


def perfect(kind='tensor'):
    return [sample(i, [(category - 1, mask) for category, mask in cells], kind) for i, cells in CELLS.items()]


def evaluate(samples, size=None, classes=CLASSES, **config):
    evaluator = Evaluator(METRICS.build(dict(type='CellMetric', **config)))
    evaluator.dataset_meta = {'classes': classes}
    for start in range(0, len(samples), 2):
        evaluator.process(samples[start:start + 2])
    return evaluator.evaluate(size or len(samples))


@pytest.mark.parametrize('kind', ['tensor', 'array', 'rle'])
def test_a_perfect_model_scores_one_whatever_form_its_masks_have(ann_file, kind):
    metrics = evaluate(perfect(kind), ann_file=str(ann_file))
    assert len(metrics) == 18
    assert set(metrics.values()) == {1.0}
    assert metrics['cells/AP50_dense'] == metrics['cells/AP75_cap100/long'] == 1


def test_a_model_that_finds_nothing_scores_zero_under_its_keys(ann_file, tmp_path):
    results_file = tmp_path / 'found' / 'cells.json'
    metrics = evaluate([sample(i, []) for i in CELLS], ann_file=str(ann_file), results_file=str(results_file))
    assert metrics['cells/AP50_dense'] == 0
    assert set(metrics.values()) == {0.0}
    assert json.loads(results_file.read_text()) == []


def test_detections_are_written_as_coco_results(ann_file, tmp_path):
    evaluate(perfect(), ann_file=str(ann_file), results_file=tmp_path / 'cells.json')
    first, second, third = json.loads((tmp_path / 'cells.json').read_text())
    assert first == {'image_id': 5, 'category_id': 10, 'bbox': [2, 3, 8, 8], 'score': pytest.approx(0.9),
                     'segmentation': encode_mask(square(2, 3, 8))}
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


def test_detections_with_an_empty_mask_are_dropped():
    cells = [(0, square(2, 3, 8)), (1, np.zeros(SIZE, bool)), (1, square(0, 0, 1))]
    found = coco_results(sample(5, cells).to_dict(), [1, 2])
    assert [result['segmentation'] for result in found] == [encode_mask(cells[0][1]), encode_mask(cells[2][1])]


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


@pytest.mark.parametrize('kind', ['tensor', 'rle'])
def test_masks_of_another_size_than_the_image_are_refused(kind):
    prediction = sample(5, [(0, square(2, 3, 8))], kind).to_dict()
    prediction['ori_shape'] = (60, 80)
    with pytest.raises(UserError, match=r'mask of \[30, 40\] pixels .* image 5 of \[60, 80\]'):
        coco_results(prediction, [1, 2])


def test_a_model_without_masks_is_refused():
    prediction = sample(5, [(0, square(2, 3, 8))]).to_dict()
    del prediction['pred_instances']['masks']
    with pytest.raises(UserError, match='boxes only'):
        coco_results(prediction, [1, 2])


def test_more_masks_than_boxes_are_refused():
    prediction = sample(5, [(0, square(2, 3, 8))]).to_dict()
    prediction['pred_instances']['masks'] = torch.zeros(2, *SIZE, dtype=torch.bool)
    with pytest.raises(ValueError, match='zip'):
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
