"""One-to-one matches between true and predicted cells."""
import numpy as np


def match_cells(pair, iou=0.5, within_class=False):
    """Match true and predicted cells by mask IoU.

    At an IoU above 0.5 and without overlaps among the predictions or among the true cells, a cell has one partner at
    most (Kirillov et al. 2019, Panoptic Segmentation). Where several are possible, the highest IoU goes first, of equal
    ones that of one class.

    Args:
        pair (ImagePair): As `ImagePair.confident` gives it.
        iou (float): Matches are above it.
        within_class (bool): Only match cells of one class.

    Returns:
        tuple[ndarray, ndarray, ndarray]: int64 (K,) indices into truth, ascending, and predictions; float64 (K,) IoU.
    """
    i, j, area = pair.overlaps
    union = pair.truth.masks.areas[i] + pair.predicted.masks.areas[j] - area
    ratio = area / union
    labels = pair.truth.labels[i], pair.predicted.labels[j]
    possible = (ratio > iou) & (~np.bool_(within_class) | (labels[0] == labels[1]))
    i, j, ratio, labels = i[possible], j[possible], ratio[possible], [label[possible] for label in labels]
    chosen, used_i, used_j = [], set(), set()
    # Of matches that are equal but for their class, the order of a list decides nothing.
    for k in np.lexsort((*labels, labels[0] != labels[1], -ratio)).tolist():
        if i[k] not in used_i and j[k] not in used_j:
            chosen.append(k)
            used_i.add(i[k])
            used_j.add(j[k])
    chosen = np.sort(np.array(chosen, np.int64))
    return i[chosen], j[chosen], ratio[chosen]
