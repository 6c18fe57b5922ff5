"""The true and the predicted cells of an image, side by side: what every metric here is computed from."""
import math
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from operator import itemgetter

import numpy as np

from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.io.files import read_json
from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.structures.overlaps import distinct, intersections
from cellseg_mm.structures.rle import with_text_counts


@dataclass(frozen=True)
class Instances:
    """N cells of one image.

    Attributes:
        masks (LocalMasks): (N,).
        labels (ndarray): int64 (N,), indices of classes.
        scores (ndarray): float64 (N,); 1 for true cells.
        boxes (ndarray): float64 (N, 4), [x, y, w, h] in pixels: the model's boxes, or the masks' where it has none.
        crowd (ndarray): bool (N,), true regions of many cells, which any number of predictions may match.
        ignore (ndarray): bool (N,), true cells that neither count themselves nor make their predictions wrong.
    """

    masks: LocalMasks
    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray
    ignore: np.ndarray

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, chosen):
        """Those of an index array, int (M,) or bool (N,)."""
        return Instances(self.masks[chosen], self.labels[chosen], self.scores[chosen], self.boxes[chosen],
                         self.crowd[chosen], self.ignore[chosen])


@dataclass(frozen=True)
class ImagePair:
    """The true and the predicted cells of an image.

    Attributes:
        image_id (int): Its id in the annotations.
        name (str): Its file name there.
        group (str): Images of one group are not independent, as those of a patient; its own where none is known.
        mpp (float | None): Micrometres per pixel.
        truth (Instances): N of them.
        predicted (Instances): M of them.
    """

    image_id: int
    name: str
    group: str
    mpp: float | None
    truth: Instances
    predicted: Instances

    @property
    def height(self):
        return self.truth.masks.height

    @property
    def width(self):
        return self.truth.masks.width

    @cached_property
    def overlaps(self):
        """`intersections` of the true masks with the predicted ones."""
        return intersections(self.truth.masks, self.predicted.masks)

    def confident(self, thresholds):
        """The pair without doubtful predictions and without overlaps among them, as a label map would hold it.

        Args:
            thresholds (ndarray): float (C,), the least score of each class.

        Returns:
            ImagePair: The predictions of a score at or above the threshold of their class; of those that are about the
                same, at an IoU above 0.5 whatever their class, the surest; each pixel given to the highest score (of
                equal ones to the first); what then has no pixel left is dropped. True cells to be ignored are dropped
                too, with the predictions that lie in them for more than half.
        """
        predicted = self.predicted[self.predicted.scores >= np.asarray(thresholds)[self.predicted.labels]]
        masks, kept = distinct(predicted.masks, predicted.scores)
        predicted = replace(predicted[kept], masks=masks)
        ignored = self.truth.ignore
        if ignored.any():
            covered = np.zeros(len(predicted), np.int64)
            _, j, area = intersections(self.truth.masks[ignored], predicted.masks)
            np.maximum.at(covered, j, area)
            predicted = predicted[2 * covered <= predicted.masks.areas]
        return replace(self, truth=self.truth[~ignored], predicted=predicted)


def pair_images(ground_truth, results):
    """Pair the true cells of each image with those predicted.

    Args:
        ground_truth (dict): COCO form: `images`, `annotations` and `categories`, the segmentations RLEs of their
            image's size, as `cellseg_mm.datasets.cell_dataset.read_cells` gives them.
        results (list[dict]): COCO results: `image_id`, `category_id`, `score`, `segmentation` as RLE of the image's
            size and, optionally, `bbox`, [x, y, w, h] in pixels.

    Returns:
        list[ImagePair]: One for each image, by ascending id. Labels count the categories by ascending id. Instances
            keep the order of their list.

    Raises:
        UserError: If there is no image, or a result is no COCO result, of an unknown image or category, or has a mask
            that cannot be read or is of another size than its image.
    """
    labels = {category: label for label, category in enumerate(sorted(c['id'] for c in ground_truth['categories']))}
    images = {image['id']: image for image in sorted(ground_truth['images'], key=itemgetter('id'))}
    if not images:
        raise UserError('the ground truth lists no image: there is nothing to evaluate')
    for number, result in enumerate(results):
        _check(number, result, images, labels)
    truth, predicted = (
        {image_id: list(cells) for image_id, cells in groupby(sorted(cells, key=_image_id), _image_id)}
        for cells in (ground_truth.get('annotations', ()), results))
    return [ImagePair(image_id, image.get('file_name', ''), group_of(image), image.get('mpp'),
                      *(_instances(cells.get(image_id, ()), image, labels) for cells in (truth, predicted)))
            for image_id, image in images.items()]


_image_id = itemgetter('image_id')


def _check(number, result, images, labels):
    problem = _malformation(result)
    if problem:
        raise UserError(f'result {number} {problem}: each has to have image_id, category_id, score, segmentation (RLE) '
                        'and, if any, bbox')
    image_id, category_id, size = result['image_id'], result['category_id'], result['segmentation']['size']
    if image_id not in images:
        problem = f'is of image id {image_id}, which the ground truth does not have'
    elif category_id not in labels:
        problem = f'is of category {category_id}, which the ground truth does not have'
    elif list(size) != _size(images[image_id]):
        problem = f'has a mask of {size} pixels; image {image_id} has {_size(images[image_id])}'
    if problem:
        raise UserError(f'result {number} {problem}: score the predictions against the split they were made on')


def _malformation(result):
    """Why this is no COCO result, or None."""
    if not isinstance(result, dict):
        return 'is no JSON object'
    for key in ('image_id', 'category_id'):
        if not isinstance(result.get(key), int):
            return f'has the {key} {result.get(key)!r}'
    if not is_number(result.get('score')):
        return f'has the score {result.get("score")!r}'
    segmentation, box = result.get('segmentation'), result.get('bbox')
    if not isinstance(segmentation, dict) or not isinstance(segmentation.get('size'), (list, tuple)) or (
            'counts' not in segmentation):
        return 'has no RLE as segmentation'
    # Some programs write [] or null where there is no box.
    if box and not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box)) and min(box[2:]) >= 0):
        return f'has the bbox {box!r}'
    return None


def is_number(value):
    """Whether a value of a JSON file is a finite number; true and false, which Python counts as such, are none."""
    return type(value) in (int, float) and math.isfinite(value)


def group_of(image):
    """The `group` of an image of `pair_images`, in words: its own where the annotations name none."""
    group = image.get('group')
    return f'image {image["id"]}' if group in (None, '') else str(group)


def _size(image):
    return [image['height'], image['width']]


def _instances(cells, image, labels):
    size = _size(image)
    try:
        masks = LocalMasks.from_rles([cell['segmentation'] for cell in cells], *size)
    except ValueError as error:
        raise UserError(f'a mask of image {image["id"]} cannot be read: {error}') from error
    boxes = [cell.get('bbox') or box for cell, box in zip(cells, masks.boxes.tolist(), strict=True)]
    crowd = np.array([cell.get('iscrowd', 0) for cell in cells], bool)
    return Instances(
        masks, np.array([labels[cell['category_id']] for cell in cells], np.int64),
        np.array([cell.get('score', 1.0) for cell in cells], np.float64), np.array(boxes, np.float64).reshape(-1, 4),
        crowd, crowd | np.array([cell.get('ignore', 0) for cell in cells], bool))


def read_results(path):
    """Read COCO results.

    Args:
        path (str | Path): A JSON list, as tools/test.py writes it.

    Returns:
        list: Unchecked; `pair_images` checks it.

    Raises:
        CellDataError: If it cannot be read, or is no list.
    """
    remedy = 'name COCO results, as tools/test.py writes them'
    results = read_json(path, remedy)
    if not isinstance(results, list):
        raise CellDataError(path, 'this is not a list of COCO results', remedy)
    return results


def read_pairs(ground_truth, path):
    """`pair_images` with the results in a file, which errors name."""
    results = read_results(path)
    try:
        return pair_images(ground_truth, results)
    except UserError as error:
        raise UserError(f'{path}: {error}') from error


def results_of(image_id, masks, category_ids, scores):
    """COCO results of the cells found in one image.

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
