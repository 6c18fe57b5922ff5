"""The figures of `evaluate`, as an MMEngine metric."""
import logging
import re
from functools import cached_property

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from cellseg_mm.datasets.cell_dataset import check_classes, read_cells
from cellseg_mm.errors import UserError
from cellseg_mm.evaluation.coco_ap import SIZES
from cellseg_mm.evaluation.evaluate import metrics_of
from cellseg_mm.evaluation.evidence import gather
from cellseg_mm.evaluation.instances import pair_images, results_of
from cellseg_mm.io.files import write_json
from cellseg_mm.structures.local_masks import as_local_masks


class PredictionCollector(BaseMetric):
    """Collects the predictions of each image as COCO results: one entry (image id, results) an image.

    Args:
        ann_file (str): The split in COCO form.
        model_boxes (bool): Keep the boxes that the model predicts, in place of those of its masks.
        **kwargs: `prefix`, `collect_device` and `collect_dir` of MMEngine's `BaseMetric`.
    """

    def __init__(self, ann_file, model_boxes=False, **kwargs):
        super().__init__(**kwargs)
        self.ann_file, self.model_boxes = ann_file, model_boxes

    @cached_property
    def annotations(self):
        return read_cells(self.ann_file)

    def process(self, data_batch, data_samples):  # noqa: ARG002 (MMEngine's signature)
        categories = self.annotations['categories']
        check_classes(self.ann_file, categories, self.dataset_meta['classes'])
        category_ids = sorted(category['id'] for category in categories)
        self.results.extend((sample['img_id'], coco_results(sample, category_ids, self.model_boxes))
                            for sample in data_samples)


@METRICS.register_module()
class CellMetric(PredictionCollector):
    """The metrics of `evaluate`, as `cells/AP50_dense`, `cells/AP50_cap100/<class>`, `cells/mPQ` and so on.

    AP by size and that of boxes by class are left to `evaluate`. Metrics that need a score threshold have that of the
    best F1 on the same images.

    Args:
        ann_file (str): The ground truth in COCO form.
        max_dets (int): The dense cap: detections for each image and class.
        results_file (str, optional): Where to write the detections, as a JSON list of COCO results.
        **kwargs: Of `PredictionCollector`.
    """

    default_prefix = 'cells'

    def __init__(self, ann_file, max_dets=1000, results_file=None, **kwargs):
        super().__init__(ann_file, model_boxes=True, **kwargs)
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
        pairs = pair_images(self.annotations, detections)
        metrics = metrics_of(pairs, gather(pairs, self.dataset_meta['classes'], self.max_dets))
        left_out = re.compile(f'box_.*/|[^/]*_({"|".join(SIZES)})$')
        return {name: value for name, value in metrics.items() if not left_out.match(name)}


def coco_results(sample, category_ids, model_boxes=False):
    """The detections of one image as COCO results; those with an empty mask are left out.

    Args:
        sample (dict): A `DetDataSample` as dictionary: `img_id`, `ori_shape` (H, W) and `pred_instances` with `scores`
            (N,), `labels` (N,) and N `masks`, in any form that `as_local_masks` takes.
        category_ids (list[int]): The category of each label.
        model_boxes (bool): Give the `bboxes` (N, 4) that the model predicts, x1, y1, x2, y2, in place of the masks'.
            Where one is empty, as of models that predict none, it is the mask's all the same.

    Returns:
        list[dict]: As `results_of` gives them.

    Raises:
        UserError: No masks, masks of another size than the image, or a label without category.
    """
    predicted, image_id, (height, width) = sample['pred_instances'], int(sample['img_id']), sample['ori_shape'][:2]
    if 'masks' not in predicted:
        raise UserError('the model predicts boxes only: use a model with a mask head')
    labels, scores = np.array(predicted['labels'].tolist(), int), np.array(predicted['scores'].tolist())
    if labels.size and not 0 <= labels.min() <= labels.max() < len(category_ids):
        raise UserError(f'the model predicts label {labels.max()}, and there are {len(category_ids)} classes: '
                        'use the configuration that the checkpoint was trained with')
    masks = predicted['masks']
    size = masks[0]['size'] if isinstance(masks, list) and masks else (height, width)
    masks = as_local_masks(masks, *size)
    if len(masks) and (masks.height, masks.width) != (height, width):
        raise UserError(f'a mask of {[masks.height, masks.width]} pixels was predicted for image {image_id} of '
                        f'{[height, width]}: masks must be rescaled to the image (rescale=True)')
    if not len(masks) == len(labels) == len(scores):
        raise ValueError(f'image {image_id} has {len(masks)} masks, {len(labels)} labels and {len(scores)} scores')
    found = masks.boxes[:, 2] > 0
    results = results_of(image_id, masks[found], np.array(category_ids)[labels[found]].tolist(), scores[found].tolist())
    if model_boxes:
        corners = np.array(predicted['bboxes'].tolist()).reshape(-1, 4)[found]
        boxes = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
        for result, box in zip(results, boxes.tolist(), strict=True):
            if box[2] > 0 and box[3] > 0:
                result['bbox'] = box
    return results
