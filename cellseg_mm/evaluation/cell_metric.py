"""Average precision of predicted cells, as an MMEngine metric."""
import logging
from functools import cached_property

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from pycocotools import mask as coco_mask

from cellseg_mm.datasets.cell_dataset import check_classes, read_annotations
from cellseg_mm.errors import UserError
from cellseg_mm.evaluation.coco_ap import average_precision
from cellseg_mm.io.files import write_json
from cellseg_mm.structures.rle import encode_mask, with_text_counts


class PredictionCollector(BaseMetric):
    """Collects the predictions of each image as COCO results: one entry (image id, results) an image.

    Args:
        ann_file (str): The split in COCO form.
        **kwargs: `prefix`, `collect_device` and `collect_dir` of MMEngine's `BaseMetric`.
    """

    def __init__(self, ann_file, **kwargs):
        super().__init__(**kwargs)
        self.ann_file = ann_file

    @cached_property
    def annotations(self):
        return read_annotations(self.ann_file)

    def process(self, data_batch, data_samples):  # noqa: ARG002 (MMEngine's signature)
        categories = self.annotations['categories']
        check_classes(self.ann_file, categories, self.dataset_meta['classes'])
        category_ids = sorted(category['id'] for category in categories)
        self.results.extend((sample['img_id'], coco_results(sample, category_ids)) for sample in data_samples)


@METRICS.register_module()
class CellMetric(PredictionCollector):
    """`average_precision` of masks, as `cells/AP50_dense`, `cells/AP50_cap100/<class>` and so on.

    Args:
        ann_file (str): The ground truth in COCO form.
        max_dets (int): The dense cap: detections for each image and class.
        results_file (str, optional): Where to write the detections, as a JSON list of COCO results.
        **kwargs: Of `PredictionCollector`.
    """

    default_prefix = 'cells'

    def __init__(self, ann_file, max_dets=1000, results_file=None, **kwargs):
        super().__init__(ann_file, **kwargs)
        self.max_dets, self.results_file = max_dets, results_file

    def compute_metrics(self, results):
        predicted = {image_id for image_id, _ in results}
        missing = sum(image['id'] not in predicted for image in self.annotations['images'])
        if missing:
            print_log(f'{missing} of {len(self.annotations["images"])} images were not predicted: '
                      'their cells count as missed', logger='current', level=logging.WARNING)
        detections = [detection for _, of_image in results for detection in of_image]
        if self.results_file:
            write_json(self.results_file, detections)
        return average_precision(self.annotations, detections, self.max_dets)


def coco_results(sample, category_ids):
    """The detections of one image as COCO results; those with an empty mask are left out.

    Args:
        sample (dict): A `DetDataSample` as dictionary: `img_id`, `ori_shape` (H, W) and `pred_instances` with `bboxes`
            (N, 4) as x1, y1, x2, y2 in pixels, `scores` (N,), `labels` (N,) and `masks`, (N, H, W) of bool or N RLEs.
        category_ids (list[int]): The category of each label.

    Returns:
        list[dict]: `image_id, category_id, bbox [x, y, w, h], score, segmentation` of plain Python values, the RLE with
            its counts as text.

    Raises:
        UserError: No masks, masks of another size than the image, or a label without category.
    """
    predicted, (height, width) = sample['pred_instances'], sample['ori_shape'][:2]
    if 'masks' not in predicted:
        raise UserError('the model predicts boxes only: use a model with a mask head')
    labels = _array(predicted['labels'])
    if labels.size and not 0 <= labels.min() <= labels.max() < len(category_ids):
        raise UserError(f'the model predicts label {labels.max()}, and there are {len(category_ids)} classes: '
                        'use the configuration that the checkpoint was trained with')
    masks = predicted['masks']
    encoded = isinstance(masks, list)
    rles = [with_text_counts(rle) for rle in masks] if encoded else [encode_mask(mask) for mask in _array(masks)]
    boxes = _array(predicted['bboxes']).astype(float).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    results = []
    for box, score, label, rle in zip(boxes, _array(predicted['scores']), labels, rles, strict=True):
        if rle['size'] != [height, width]:
            raise UserError(f'a mask of {rle["size"]} pixels was predicted for image {sample["img_id"]} of '
                            f'{[height, width]}: masks must be rescaled to the image (rescale=True)')
        if coco_mask.area(rle):
            results.append({'image_id': int(sample['img_id']), 'category_id': category_ids[label],
                            'bbox': box.round(2).tolist(), 'score': float(score), 'segmentation': rle})
    return results


def _array(values):
    """To NumPy, which has no bfloat16."""
    if not hasattr(values, 'detach'):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.float() if values.is_floating_point() else values).numpy()
