"""Quality of detection: precision, recall and F1 by mask IoU, and F1 by the distance of centroids."""
import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from cellseg_mm.structures.compiled import compiled


def detection_quality(pairs, counts, classes, radius=12):
    """All metrics of this module, each of the counts of all images together.

    `precision, recall, F1` are of cells matched at mask IoU > 0.5 whatever their class, those with '/<class>' of cells
    that match within the class. `F1_centroid` and `F1_type/<class>` are those of `f1_of_centroids`.

    Args:
        pairs (list[ImagePair]): I images, as `ImagePair.confident` gives them.
        counts (Counts): Of `count_matches` of them.
        classes (Sequence[str]): C names.
        radius (float): Farthest that centroids of one cell may lie apart, in pixels. HoVer-Net's 12 is meant for
            40x, about 0.25 micrometres per pixel.

    Returns:
        dict[str, float]: NaN where undefined.
    """
    figures = precision_recall_f1(*(count.sum(0) for count in counts[:3]))
    suffixes = [*(f'/{name}' for name in classes), '']
    metrics = {name + suffix: float(value) for name, values in zip(('precision', 'recall', 'F1'), figures, strict=True)
               for suffix, value in zip(suffixes, values, strict=True)}
    table = np.zeros((len(classes) + 1, ) * 2, np.int64)
    for pair in pairs:
        table += centroid_table(pair, len(classes), radius)
    metrics['F1_centroid'], of_types = f1_of_centroids(table)
    return metrics | {f'F1_type/{name}': float(value) for name, value in zip(classes, of_types, strict=True)}


def precision_recall_f1(tp, fp, fn):
    """Precision tp / (tp + fp), recall tp / (tp + fn) and F1, their harmonic mean.

    Args:
        tp (ndarray): Matches, of any shape.
        fp (ndarray): Predictions without match, of the same shape.
        fn (ndarray): True cells without match, likewise.

    Returns:
        tuple[ndarray, ndarray, ndarray]: float64 of that shape; NaN where nothing was predicted (precision), nothing is
            to be found (recall), or both (F1).

    >>> [float(figure) for figure in precision_recall_f1(tp=3, fp=1, fn=3)]
    [0.75, 0.5, 0.6]
    """
    tp = np.asarray(tp)
    return _ratio(tp, tp + fp), _ratio(tp, tp + fn), _ratio(2 * tp, 2 * tp + fp + fn)


def f1_of_centroids(table):
    """Detection and type F1 of HoVer-Net, F_d and F_c (Graham et al. 2019; weights 2, 2, 1, 1).

    F_d = 2 paired / (2 paired + unpaired). For a class, of the pairs that have it on one side or both, those on both
    are right: F_c = 2 right / (2 right + 2 wrong + unpaired of the class). The true negatives of the paper's formula
    are pairs that have it on neither side, of which its script counts none. Other than there, an image without
    cells on one side is not given one at its corner.

    Args:
        table (ndarray): int (C + 1, C + 1), of one image by `centroid_table`, or the sum of several.

    Returns:
        tuple[float, ndarray]: F_d, and float64 (C,), F_c of each class; NaN without any cell.

    Three cells of the first class are found, one of them as the second, and one of the second is missed:

    >>> f1, of_types = f1_of_centroids(np.array([[2, 1, 0], [0, 0, 1], [0, 0, 0]]))
    >>> round(f1, 3), of_types.round(3).tolist()
    (0.857, [0.667, 0.0])
    """
    paired = table[:-1, :-1]
    right, true, predicted = np.diag(paired), paired.sum(1), paired.sum(0)
    unpaired = table[:-1, -1] + table[-1, :-1]
    f1 = _ratio(2 * paired.sum(), 2 * paired.sum() + unpaired.sum())
    return float(f1), _ratio(2 * right, 2 * (true + predicted - right) + unpaired)


def centroid_table(pair, num_classes, radius=12):
    """Classes of the cells of an image that are paired by their centroids.

    Args:
        pair (ImagePair): The image.
        num_classes (int): C.
        radius (float): Of `pair_centroids`.

    Returns:
        ndarray: int64 (C + 1, C + 1), pairs by the class of the true cell (row) and of the predicted one (column); the
            last column has the true cells without partner, the last row the predictions.
    """
    i, j = pair_centroids(pair, radius)
    table = np.zeros((num_classes + 1, ) * 2, np.int64)
    true, predicted = pair.truth.labels, pair.predicted.labels
    np.add.at(table, (true[i], predicted[j]), 1)
    table[:-1, -1] = np.bincount(np.delete(true, i), minlength=num_classes)
    table[-1, :-1] = np.bincount(np.delete(predicted, j), minlength=num_classes)
    return table


def pair_centroids(pair, radius=12):
    """Pair true and predicted cells one-to-one by their centroids, as HoVer-Net's `pair_coordinates`.

    The assignment has the smallest sum of distances over all cells, also of pairs beyond the radius, which are
    discarded thereafter. One among near cells only can be another: it would keep a close pair that costs others a long
    way. Of equally good ones that of more pairs within the radius is taken, of those that of more pairs of one class.

    Args:
        pair (ImagePair): The image.
        radius (float): Farthest allowed distance, in pixels, inclusive.

    Returns:
        tuple[ndarray, ndarray]: int64 (K,) indices into truth and predictions.
    """
    (places, labels, i), (others, other_labels, j) = (_in_order(cells) for cells in (pair.truth, pair.predicted))
    distance = cdist(places, others)
    near = distance <= radius
    rows, columns = linear_sum_assignment(distance - near * (1e-7 + 1e-9 * (labels[:, None] == other_labels)))
    kept = near[rows, columns]
    return i[rows[kept]], j[columns[kept]]


def centroids(masks):
    """Centre of mass of each mask.

    Args:
        masks (LocalMasks): N masks.

    Returns:
        ndarray: float64 (N, 2) of x and y in pixels, whole at a pixel's centre; NaN for an empty mask.
    """
    return _centroids(masks.pixels, masks.boxes, masks.offsets)


@compiled
def _centroids(pixels, boxes, offsets):
    centres = np.full((len(boxes), 2), np.nan)
    for i in range(len(boxes)):
        x, y, w, h = boxes[i]
        columns, rows, count, place = 0, 0, 0, offsets[i]
        for row in range(h):
            for column in range(w):
                if pixels[place]:
                    columns += column
                    rows += row
                    count += 1
                place += 1
        if count:
            # Of whole sums, so that what lies at one place has the same numbers.
            centres[i] = (x * count + columns) / count, (y * count + rows) / count
    return centres


def _in_order(cells):
    """Centroids, labels and indices of the cells that have pixels, by position, so that their order decides nothing."""
    places = centroids(cells.masks)
    order = np.lexsort((cells.labels, *places.T))
    order = order[cells.masks.areas[order] > 0]
    return places[order], cells.labels[order], order


def _ratio(part, whole):
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)
