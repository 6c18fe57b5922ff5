"""COCO average precision at two detection caps, as a pure function on annotations in COCO form."""
import numpy as np

from cellseg_mm.errors import UserError
from cellseg_mm.structures.rle import with_text_counts

COCO_CAP = 100  # COCOeval's own limit of detections for each image and class
_CAPS, _FIGURES = ('dense', f'cap{COCO_CAP}'), ('AP50', 'AP75', 'AP')


def average_precision(ground_truth, results, max_dets, iou_type='segm', class_agnostic=False):
    """Mask or box average precision, unrounded, equal to pycocotools' at the same caps.

    A cap keeps the highest scores of each image and class. Ties keep the order of `results`. Definition: the 101-point
    interpolated precision of https://cocodataset.org/#detection-eval, AP being its mean over IoU 0.50 to 0.95.

    Args:
        ground_truth (dict): COCO form: `images`, `annotations` and `categories`.
        results (list[dict]): COCO results: `image_id`, `category_id`, `score`, and `segmentation` as RLE of the image's
            size (for 'segm') or `bbox` as [x, y, w, h] in pixels (for 'bbox').
        max_dets (int): The dense cap.
        iou_type (str): 'segm' or 'bbox'.
        class_agnostic (bool): Take all classes for one, so that a cap holds for the whole image.

    Returns:
        dict[str, float]: `AP50_dense, AP75_dense, AP_dense, AP50_cap100, AP75_cap100, AP_cap100`, each the mean over
            the classes that have ground truth, and unless `class_agnostic` each of them for every class, as
            'AP50_dense/class1'. NaN where there is no ground truth; zero where there is and nothing was detected.

    Raises:
        UserError: A result of an unknown image or category, with a score that is not finite, or with a mask of another
            size than its image.
    """
    from faster_coco_eval.core import COCO, COCOeval_faster
    _check_results(ground_truth, results, iou_type)
    categories = sorted(ground_truth['categories'], key=lambda category: category['id'])
    # Annotations are numbered anew from 1, since COCOeval takes a match with annotation 0 for no match.
    truth = [{'iscrowd': 0, **a, 'id': i} for i, a in enumerate(ground_truth.get('annotations', ()), 1)]
    # The area only chooses COCO's size ranges, of which none is asked for.
    found = [{**r, 'id': i, 'iscrowd': 0, 'area': 1} for i, r in enumerate(results, 1)]
    if class_agnostic:
        categories = [{'id': 1, 'name': 'cell'}]
        for annotation in truth + found:
            annotation['category_id'] = 1
    evaluator = COCOeval_faster(*(
        COCO({'images': ground_truth['images'], 'categories': categories, 'annotations': annotations})
        for annotations in (truth, found)), iouType=iou_type, print_function=_silence)
    evaluator.params.maxDets = caps = sorted({COCO_CAP, max_dets})
    evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ['all']
    evaluator.evaluate()
    evaluator.accumulate()

    # Precision has the axes IoU threshold, recall, class, area range, cap; -1 marks a class without ground truth.
    precision = np.asarray(evaluator.eval['precision'])[:, :, :, 0].mean(1)
    precision[precision < 0] = np.nan
    metrics = {}
    for name, cap in zip(_CAPS, (max_dets, COCO_CAP), strict=True):
        at_cap = precision[:, :, caps.index(cap)]
        for figure, values in zip(_FIGURES, (at_cap[0], at_cap[5], at_cap.mean(0)), strict=True):
            valid = values[~np.isnan(values)]
            metrics[f'{figure}_{name}'] = float(valid.mean()) if valid.size else np.nan
            if not class_agnostic:
                metrics |= {f'{figure}_{name}/{category["name"]}': float(value)
                            for category, value in zip(categories, values, strict=True)}
    return metrics


def results_of(image_id, masks, category_ids, scores):
    """COCO results of one image's instances.

    Args:
        image_id (int): The image.
        masks (LocalMasks): N instances, none of them empty.
        category_ids (list[int]): (N,) the category of each.
        scores (list[float]): (N,) the score of each.

    Returns:
        list[dict]: N times `image_id, category_id, bbox, score, segmentation` of plain Python values: `bbox` is the
            mask's, [x, y, w, h] in pixels, and the RLE has its counts as text.
    """
    return [dict(image_id=image_id, category_id=category, bbox=box, score=score, segmentation=with_text_counts(rle))
            for category, box, score, rle
            in zip(category_ids, masks.boxes.tolist(), scores, masks.to_rles(), strict=True)]


def format_table(metrics, classes):
    """A table of AP50, AP75 and AP for each class and their mean, at both caps.

    Args:
        metrics (dict[str, float]): From `average_precision`; a metric's prefix such as 'cells/' is allowed.
        classes (Sequence[str]): The rows, in order.

    Returns:
        str: One line a row; '-' where a class has no ground truth.
    """
    metrics = {key.removeprefix('cells/'): value for key, value in metrics.items()}
    width = max(map(len, ('class', *classes)))
    headings = 'dense cap (max_dets)', f"cap {COCO_CAP} (COCO's default)"
    lines = [' ' * width + ''.join(f'   {heading:^24}' for heading in headings),
             f'{"class":{width}}' + ''.join(f'{figure:>9}' for figure in _FIGURES * 2)]
    for label, suffix in [*((name, f'/{name}') for name in classes), ('mean', '')]:
        values = [metrics.get(f'{figure}_{cap}{suffix}', np.nan) for cap in _CAPS for figure in _FIGURES]
        cells = ['-' if np.isnan(value) else f'{value:.3f}' for value in values]
        lines.append(f'{label:{width}}' + ''.join(f'{cell:>9}' for cell in cells))
    return '\n'.join(lines)


def _check_results(ground_truth, results, iou_type):
    sizes = {image['id']: [image['height'], image['width']] for image in ground_truth['images']}
    categories = {category['id'] for category in ground_truth['categories']}
    for number, result in enumerate(results):
        image, category = result['image_id'], result['category_id']
        problem = None
        if image not in sizes:
            problem = f'is of image id {image}, which the ground truth does not have'
        elif category not in categories:
            problem = f'is of category {category}, which the ground truth does not have'
        elif not np.isfinite(result['score']):
            problem = f'has the score {result["score"]}'
        elif iou_type == 'segm' and list(result['segmentation']['size']) != sizes[image]:
            problem = f'has a mask of {result["segmentation"]["size"]} pixels; image {image} has {sizes[image]}'
        if problem:
            raise UserError(f'result {number} {problem}: score the predictions against the split they were made on')


def _silence(*args, **kwargs):
    """Take what the evaluator would print."""
