"""Quality of the segmented cells of an image: panoptic quality, aggregated Jaccard index and Dice.

All take pairs as `ImagePair.confident` gives them: predictions do not overlap. True cells may; areas, intersections and
unions are then those of the masks themselves, and where nothing overlaps all equals what is computed from label maps.

What is undefined is NaN and left out of means: an image without true and without predicted cells, and for a class an
image that has neither true nor predicted cells of it. Where there are cells on one side only, the value is 0: cells
predicted in a class that the image lacks are false positives, which the script of the MoNuSAC 2020 challenge forgot
(Foucart et al. 2022) and PanNuke's leaves out.
"""
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from cellseg_mm.evaluation.coco_ap import mean_of_known
from cellseg_mm.evaluation.matching import match_cells


class Counts(NamedTuple):
    """Matches of I images in C classes, each array (I, C + 1); the last column takes all classes for one.

    They add up over images, so that `panoptic_quality(*counts)` is of each image, and of sums of rows it is pooled.

    Attributes:
        tp (ndarray): int64, true cells that a prediction matches.
        fp (ndarray): int64, predictions without match.
        fn (ndarray): int64, true cells without match.
        iou (ndarray): float64, sum of the mask IoU of the matches.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    iou: np.ndarray


def segmentation_quality(pairs, classes):
    """All metrics of this module.

    `bDQ, bSQ, bPQ` are those of all classes taken for one, as means over images (Graham et al. 2019, HoVer-Net). `mPQ`
    is the mean over the classes of an image, then over images (Gamper et al. 2020, PanNuke Dataset Extension, whose
    script leaves out predictions in classes that the image lacks; here they count, as 0). `DQ/<class>, SQ/<class>,
    PQ/<class>` are means over the images that have true or predicted cells of the class. `PQ+/<class>` is of the counts
    of all images together, and `mPQ+` the mean over the classes that any image has (Graham et al. 2024, CoNIC
    Challenge). `AJI, AJI+, Dice` are means over images.

    Args:
        pairs (list[ImagePair]): I images, as `ImagePair.confident` gives them.
        classes (Sequence[str]): C names.

    Returns:
        tuple[dict, dict, Counts]: {name: float} of the metrics above; {name: float64 (I,)} of the images for bDQ, bSQ,
            bPQ, mPQ, AJI, AJI+ and Dice; and the counts. NaN where undefined.
    """
    counts = count_matches(pairs, len(classes))
    dq, sq, pq = panoptic_quality(*counts)
    images = {'bDQ': dq[:, -1], 'bSQ': sq[:, -1], 'bPQ': pq[:, -1], 'mPQ': mean_of_known(pq[:, :-1], axis=1)}
    for name, metric in (('AJI', aggregated_jaccard), ('AJI+', aggregated_jaccard_plus), ('Dice', dice)):
        images[name] = np.array([metric(pair) for pair in pairs], np.float64)
    pooled = panoptic_quality(*(count.sum(0) for count in counts))[2][:-1]

    metrics = {name: mean_of_known(values) for name, values in images.items()}
    metrics['mPQ+'] = mean_of_known(pooled)
    of_classes = {'DQ': mean_of_known(dq, axis=0), 'SQ': mean_of_known(sq, axis=0),
                  'PQ': mean_of_known(pq, axis=0), 'PQ+': pooled}
    metrics |= {f'{name}/{category}': float(values[label])
                for name, values in of_classes.items() for label, category in enumerate(classes)}
    return metrics, images, counts


def count_matches(pairs, num_classes):
    """Count the matches of mask IoU > 0.5 by `match_cells`.

    Args:
        pairs (list[ImagePair]): I images, as `ImagePair.confident` gives them.
        num_classes (int): C; in each a true and a predicted cell match only if both are of it.

    Returns:
        Counts: (I, C + 1).
    """
    found, true, predicted = np.zeros((3, len(pairs), num_classes + 1), np.int64)
    ratios = np.zeros((len(pairs), num_classes + 1))
    for image, pair in enumerate(pairs):
        i, _, iou = match_cells(pair, within_class=True)
        labels = pair.truth.labels[i]
        found[image, :-1] = np.bincount(labels, minlength=num_classes)
        ratios[image, :-1] = np.bincount(labels, iou, minlength=num_classes)
        i, _, iou = match_cells(pair)
        found[image, -1], ratios[image, -1] = len(i), iou.sum()
        for cells, instances in ((true, pair.truth), (predicted, pair.predicted)):
            cells[image] = np.append(np.bincount(instances.labels, minlength=num_classes), len(instances))
    return Counts(found, predicted - found, true - found, ratios)


def panoptic_quality(tp, fp, fn, iou):
    """Detection, segmentation and panoptic quality.

    Kirillov et al. 2019, Panoptic Segmentation; the names DQ and SQ are those of Graham et al. 2019, HoVer-Net:
    DQ = tp / (tp + fp / 2 + fn / 2), SQ = iou / tp, or 0 without match, PQ = DQ * SQ.

    Args:
        tp (ndarray): Matches, of any shape.
        fp (ndarray): Predictions without match, of the same shape.
        fn (ndarray): True cells without match, likewise.
        iou (ndarray): Sums of the IoU of the matches, likewise.

    Returns:
        tuple[ndarray, ndarray, ndarray]: float64 DQ, SQ and PQ of that shape; NaN without any cell.

    Two cells are found, one of them at IoU 0.6 and one exactly; one is missed, one is spurious:

    >>> [float(quality.round(3)) for quality in panoptic_quality(tp=2, fp=1, fn=1, iou=1.6)]
    [0.667, 0.8, 0.533]
    """
    cells = tp + (np.asarray(fp) + fn) / 2
    dq = np.divide(tp, cells, out=np.full(cells.shape, np.nan), where=cells > 0)
    sq = np.where(cells > 0, iou / np.maximum(tp, 1), np.nan)
    return dq, sq, dq * sq


def aggregated_jaccard(pair):
    """Aggregated Jaccard index, AJI, of an image: shared pixels of paired cells per pixel of their unions and the rest.

    Kumar et al. 2017, A Dataset and a Technique for Generalized Nuclear Segmentation, as HoVer-Net's `get_fast_aji`:
    each true cell is paired with the prediction of the highest IoU, which other true cells may have too; true cells
    that no prediction touches and predictions that are not paired add their area to the unions.

    Args:
        pair (ImagePair): As `ImagePair.confident` gives it.

    Returns:
        float: NaN without any cell.
    """
    i, j, area, union = _overlaps(pair)
    order = np.lexsort((_rank(pair.predicted.masks)[j], -area / union, i))
    return _jaccard_of(pair, order[np.unique(i[order], return_index=True)[1]])


def aggregated_jaccard_plus(pair):
    """AJI+ of an image: AJI, but pairs are one-to-one, those of the largest sum of IoU.

    HoVer-Net's `get_fast_aji_plus` (Graham et al. 2019). An assignment on the pairs that touch is the same as one on
    the whole matrix, since what does not touch adds 0 to the sum and is discarded.

    Args:
        pair (ImagePair): As `ImagePair.confident` gives it.

    Returns:
        float: NaN without any cell.
    """
    i, j, area, union = _overlaps(pair)
    # Behind the predictions, each true cell has a column of its own, which it takes where it stays without partner.
    true, predicted = len(pair.truth), len(pair.predicted)
    alone = np.arange(true)
    graph = csr_array((np.append(2 - area / union, np.full(true, 2.)),
                       (np.append(i, alone), np.append(j, predicted + alone))), shape=(true, predicted + true))
    partner = min_weight_full_bipartite_matching(graph)[1] if true else alone
    return _jaccard_of(pair, partner[i] == j)


def dice(pair):
    """Dice coefficient of an image's foreground, the pixels of any cell: twice the shared ones per those of both sides.

    Args:
        pair (ImagePair): The image.

    Returns:
        float: NaN without any cell.
    """
    true, predicted = (cells.masks.to_label_map() > 0 for cells in (pair.truth, pair.predicted))
    return _share(pair, 2 * np.count_nonzero(true & predicted), np.count_nonzero(true) + np.count_nonzero(predicted))


def _overlaps(pair):
    """`pair.overlaps` with the union of each, to which HoVer-Net adds a bit: of equal IoU the larger goes first."""
    i, j, area = pair.overlaps
    return i, j, area, pair.truth.masks.areas[i] + pair.predicted.masks.areas[j] - area + 1e-6


def _rank(masks):
    """Place of each mask by where and what it is, int64 (N,), so that a list's order never decides between equals."""
    keys = [(y, x, bitmap.shape, bitmap.tobytes()) for x, y, bitmap in masks.crops()]
    rank = np.empty(len(keys), np.int64)
    rank[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    return rank


def _jaccard_of(pair, chosen):
    """AJI of those of `pair.overlaps` that are chosen as pairs, each true cell once at most."""
    i, j, area = (values[chosen] for values in pair.overlaps)
    true, predicted = pair.truth.masks.areas, pair.predicted.masks.areas
    unpaired = np.delete(true, i).sum() + np.delete(predicted, j).sum()
    return _share(pair, area.sum(), (true[i] + predicted[j] - area).sum() + unpaired)


def _share(pair, part, whole):
    return float(part / max(whole, 1)) if len(pair.truth) + len(pair.predicted) else np.nan
