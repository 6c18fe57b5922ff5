"""COCO average precision at two detection caps, for each class and size, of masks and of boxes."""
from dataclasses import dataclass

import numpy as np

from cellseg_mm.structures.compiled import compiled

COCO_CAP = 100  # COCOeval's own limit of detections for each image and class
CAPS = 'dense', f'cap{COCO_CAP}'
FIGURES = 'AP50', 'AP75', 'AP'
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
# COCOeval's own limits, in pixels. Most nuclei at 40x are small by them.
SIZES = {'small': (0, 32**2), 'medium': (32**2, 96**2), 'large': (96**2, 1e10)}


@dataclass(frozen=True)
class Matches:
    """Which of D detections on I images found a cell of their class, at T = 10 IoU thresholds from 0.50 to 0.95.

    By image, within it by class, within that by falling score; of equal scores, the first of the results comes first.

    Attributes:
        image (ndarray): int64 (D,), index of the image.
        index (ndarray): int64 (D,), index among its predictions.
        label (ndarray): int64 (D,), class.
        score (ndarray): float64 (D,).
        rank (ndarray): int64 (D,), how many of its image and class come before it.
        matched (ndarray): bool (D, T), right: a true cell that counts is its own.
        ignored (ndarray): bool (D, T), neither right nor wrong, since it matches what is to be ignored.
        truth (ndarray): int64 (D,), index of the true cell it is matched with at IoU 0.50, -1 for none.
        count (ndarray): int64 (I, C), true cells that count.
    """

    image: np.ndarray
    index: np.ndarray
    label: np.ndarray
    score: np.ndarray
    rank: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    truth: np.ndarray
    count: np.ndarray


def match_detections(pairs, num_classes, iou_type='segm', class_agnostic=False, size=(0, 1e10)):
    """Match detections with true cells as COCOeval does.

    In each image and class, by falling score, a detection takes the free true cell of the highest IoU, of equal ones
    the last; one to be ignored only if no other is left. The IoU with a crowd is the share of the detection in it.
    (https://cocodataset.org/#detection-eval; `COCOeval.evaluateImg` of pycocotools.)

    Args:
        pairs (list[ImagePair]): The images.
        num_classes (int): C.
        iou_type (str): 'segm' for masks, 'bbox' for boxes.
        class_agnostic (bool): Take all classes for one.
        size (tuple[float, float]): Least and most area in pixels; true cells of another are ignored, and so are
            detections of another that match nothing.

    Returns:
        Matches: Of all detections; a cap of n keeps those of `rank < n`.
    """
    num_classes = 1 if class_agnostic else num_classes
    parts, count = [], np.zeros((len(pairs), num_classes), np.int64)
    for image, pair in enumerate(pairs):
        truth, predicted = pair.truth, pair.predicted
        labels = [np.zeros_like(cells.labels) if class_agnostic else cells.labels for cells in (truth, predicted)]
        if iou_type == 'segm':
            i, j, shared = pair.overlaps
            areas = truth.masks.areas, predicted.masks.areas
        else:
            i, j, shared = _box_intersections(truth.boxes, predicted.boxes)
            areas = truth.boxes[:, 2] * truth.boxes[:, 3], predicted.boxes[:, 2] * predicted.boxes[:, 3]
        least, most = size
        # As COCOeval, sizes of true cells are those of their masks for boxes too.
        sizes = truth.masks.areas
        ignore = truth.ignore | (sizes < least) | (sizes > most)
        outside = (areas[1] < least) | (areas[1] > most)
        ious = shared / np.where(truth.crowd[i], areas[1][j], areas[0][i] + areas[1][j] - shared)
        by_truth = np.lexsort((i, ignore[i], j))
        starts = np.searchsorted(j[by_truth], np.arange(len(predicted) + 1))
        order = np.lexsort((-predicted.scores, labels[1]))
        count[image] = np.bincount(labels[0][~ignore], minlength=num_classes)
        of_order = labels[1][order]
        first = np.searchsorted(of_order, of_order)
        parts.append((np.full(len(order), image), order, of_order, predicted.scores[order],
                      np.arange(len(order)) - first,
                      *_match(starts, i[by_truth], ious[by_truth], *labels, ignore, truth.crowd, outside, order,
                              THRESHOLDS)))
    empty = (np.zeros(0, np.int64), ) * 3 + (np.zeros(0), np.zeros(0, np.int64)) + (
        np.zeros((0, len(THRESHOLDS)), bool), ) * 2 + (np.zeros(0, np.int64), )
    return Matches(*map(np.concatenate, zip(empty, *parts, strict=True)), count)


@compiled
def _box_intersections(boxes, other_boxes):
    i, j, areas = [], [], []
    for a in range(len(boxes)):
        x, y, w, h = boxes[a]
        for b in range(len(other_boxes)):
            u, v, s, t = other_boxes[b]
            width, height = min(x + w, u + s) - max(x, u), min(y + h, v + t) - max(y, v)
            if width > 0 and height > 0:
                i.append(a)
                j.append(b)
                areas.append(width * height)
    return np.array(i, np.int64), np.array(j, np.int64), np.array(areas, np.float64)


@compiled
def _match(starts, truths, ious, truth_labels, labels, ignore, crowd, outside, order, thresholds):
    shape = len(order), len(thresholds)
    matched, ignored = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    partner = np.full(len(order), -1)
    for t in range(len(thresholds)):
        taken = np.zeros(len(truth_labels), np.bool_)
        for d in range(len(order)):
            j = order[d]
            best, iou = -1, min(thresholds[t], 1 - 1e-10)
            for k in range(starts[j], starts[j + 1]):
                i = truths[k]
                if truth_labels[i] != labels[j] or (taken[i] and not crowd[i]):
                    continue
                if best >= 0 and not ignore[best] and ignore[i]:
                    break
                if ious[k] >= iou:
                    best, iou = i, ious[k]
            if best >= 0:
                taken[best] = True
                matched[d, t], ignored[d, t] = not ignore[best], ignore[best]
                if t == 0:
                    partner[d] = best
            else:
                ignored[d, t] = outside[j]
    return matched, ignored, partner


def precision_at_recalls(matches, max_dets):
    """Interpolated precision at the recalls 0, 0.01, ..., 1 of every class, at IoU 0.50 to 0.95.

    Args:
        matches (Matches): Of D detections on I images, C classes.
        max_dets (int): Detections of each image and class that count.

    Returns:
        ndarray: float64 (C, T, 101); NaN for a class without true cells.
    """
    curves = np.full((matches.count.shape[1], len(THRESHOLDS), len(RECALLS)), np.nan)
    once = np.ones(len(matches.count), np.int64)
    for label, ranked in enumerate(_ranked(matches, max_dets)):
        if positives := matches.count[:, label].sum():
            _interpolate(*ranked, once, positives, RECALLS, np.arange(len(THRESHOLDS)), curves[label])
    return curves


def resampled_ap(matches, max_dets, weights, thresholds=slice(None)):
    """Average precision of each class, with images counted as often as weights say.

    Args:
        matches (Matches): Of D detections on I images, C classes.
        max_dets (int): Detections of each image and class that count.
        weights (ndarray): int (R, I).
        thresholds (slice): Of the ten IoU thresholds; AP is the mean over them.

    Returns:
        ndarray: float64 (R, C); NaN where a class has no true cells.
    """
    weights = np.ascontiguousarray(weights, np.int64)
    found = np.empty((len(weights), matches.count.shape[1]))
    for label, ranked in enumerate(_ranked(matches, max_dets)):
        found[:, label] = _average_precision(*ranked, weights, weights @ matches.count[:, label], RECALLS,
                                             np.arange(len(THRESHOLDS))[thresholds])
    return found


def _ranked(matches, max_dets):
    """Of each class, by falling score over all images: image (N,), places of the right by threshold, ignored (T, N).

    The places of threshold t are `places[starts[t]:starts[t + 1]]`.
    """
    for label in range(matches.count.shape[1]):
        chosen = np.flatnonzero((matches.label == label) & (matches.rank < max_dets))
        chosen = chosen[np.argsort(-matches.score[chosen], kind='stable')]
        matched = matches.matched[chosen].T
        starts = np.append(0, np.cumsum(matched.sum(1)))
        yield matches.image[chosen], np.nonzero(matched)[1], starts, np.ascontiguousarray(matches.ignored[chosen].T)


@compiled
def _average_precision(image, places, starts, ignored, weights, positives, recalls, thresholds):
    found, curves = np.full(len(weights), np.nan), np.empty((len(ignored), len(recalls)))
    for r in range(len(weights)):
        if positives[r]:
            _interpolate(image, places, starts, ignored, weights[r], positives[r], recalls, thresholds, curves)
            total = 0.0
            for t in thresholds:
                total += curves[t].mean()
            found[r] = total / len(thresholds)
    return found


@compiled
def _interpolate(image, places, starts, ignored, weights, positives, recalls, thresholds, curves):
    """Fill curves (T, 101): the highest precision at a recall or beyond, zero beyond the last."""
    detected = np.empty(len(image), np.int64)
    right, precision = np.empty(len(image), np.int64), np.empty(len(image))
    for t in thresholds:
        # Thresholds mostly ignore the same detections, mostly none.
        if t == thresholds[0] or not np.array_equal(ignored[t], ignored[t - 1]):
            count = 0
            for d in range(len(image)):
                count += 0 if ignored[t, d] else weights[image[d]]
                detected[d] = count
        # Precision is highest where a cell has just been found.
        number, count = 0, 0
        for place in places[starts[t]:starts[t + 1]]:
            if weights[image[place]]:
                count += weights[image[place]]
                right[number], precision[number] = count, count / detected[place]
                number += 1
        for k in range(number - 1, 0, -1):
            precision[k - 1] = max(precision[k - 1], precision[k])
        curves[t] = 0
        k = 0
        for r in range(len(recalls)):
            while k < number and right[k] / positives < recalls[r]:
                k += 1
            if k == number:
                break
            curves[t, r] = precision[k]


def average_precision(pairs, classes, max_dets, iou_type='segm', class_agnostic=False):
    """Mask or box average precision, unrounded, equal to pycocotools' at the same caps.

    A cap keeps the highest scores of each image and class. Ties keep the order of the results. Definition: the
    101-point interpolated precision of https://cocodataset.org/#detection-eval, AP its mean over IoU 0.50 to 0.95.

    Args:
        pairs (list[ImagePair]): The images.
        classes (Sequence[str]): Names of the classes.
        max_dets (int): The dense cap.
        iou_type (str): 'segm' or 'bbox'.
        class_agnostic (bool): Take all classes for one, so that a cap holds for the whole image.

    Returns:
        dict[str, float]: `AP50_dense, AP75_dense, AP_dense, AP50_cap100, AP75_cap100, AP_cap100`, each the mean over
            the classes that have true cells; each of them for COCO's sizes, as 'AP50_dense_small'; and unless
            `class_agnostic` for every class, as 'AP50_dense/class1'. NaN where there are no true cells; zero where
            there are and nothing was detected.
    """
    metrics = {}
    for suffix, size in {'': (0, 1e10), **{f'_{name}': size for name, size in SIZES.items()}}.items():
        matches = match_detections(pairs, len(classes), iou_type, class_agnostic, size)
        for cap, limit in zip(CAPS, (max_dets, COCO_CAP), strict=True):
            of_classes = precision_at_recalls(matches, limit).mean(2)
            values = dict(zip(FIGURES, (of_classes[:, 0], of_classes[:, 5], of_classes.mean(1)), strict=True))
            metrics |= {f'{figure}_{cap}{suffix}': mean_of_known(value) for figure, value in values.items()}
            if not suffix and not class_agnostic:
                metrics |= {f'{figure}_{cap}/{name}': float(value[label]) for figure, value in values.items()
                            for label, name in enumerate(classes)}
    return metrics


def mean_of_known(values, axis=None):
    """The mean of what is not NaN; NaN where all is."""
    known = ~np.isnan(values)
    count = known.sum(axis)
    mean = np.where(known, values, 0).sum(axis) / np.where(count, count, np.nan)
    return float(mean) if axis is None else mean


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
             f'{"class":{width}}' + ''.join(f'{figure:>9}' for figure in FIGURES * 2)]
    for label, suffix in [*((name, f'/{name}') for name in classes), ('mean', '')]:
        values = [metrics.get(f'{figure}_{cap}{suffix}', np.nan) for cap in CAPS for figure in FIGURES]
        cells = ['-' if value is None or np.isnan(value) else f'{value:.3f}' for value in values]
        lines.append(f'{label:{width}}' + ''.join(f'{cell:>9}' for cell in cells))
    return '\n'.join(lines)
