"""One-to-one matches between true and predicted cells."""
import numpy as np


def match_cells(pair, iou=0.5):
    """Match true and predicted cells by mask IoU, whatever their class.

    At an IoU above 0.5 and without overlaps among the predictions or among the true cells, a cell has one partner at
    most (Kirillov et al. 2019, Panoptic Segmentation). Where several are possible, the highest IoU goes first.

    Args:
        pair (ImagePair): As `ImagePair.confident` gives it.
        iou (float): Matches are above it.

    Returns:
        tuple[ndarray, ndarray, ndarray]: int64 (K,) indices into truth, ascending, and predictions; float64 (K,) IoU.
    """
    i, j, area = pair.overlaps
    union = pair.truth.masks.areas[i] + pair.predicted.masks.areas[j] - area
    ratio = area / union
    above = ratio > iou
    i, j, ratio = i[above], j[above], ratio[above]
    chosen, used_i, used_j = [], set(), set()
    for k in np.argsort(-ratio, kind='stable').tolist():
        if i[k] not in used_i and j[k] not in used_j:
            chosen.append(k)
            used_i.add(i[k])
            used_j.add(j[k])
    chosen = np.sort(np.array(chosen, np.int64))
    return i[chosen], j[chosen], ratio[chosen]
