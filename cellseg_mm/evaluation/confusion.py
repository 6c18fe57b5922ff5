"""Which classes are taken for which, and what becomes of every single cell."""
import numpy as np

from cellseg_mm.evaluation.matching import match_cells


def confusion_matrix(pairs, num_classes):
    """Count true cells by their class and that of the prediction they match, at a mask IoU above 0.5.

    Matches disregard the class, so that a cell found under a wrong one is confused, not both missed and spurious.

    Args:
        pairs (Sequence[ImagePair]): As `ImagePair.confident` gives them.
        num_classes (int): C.

    Returns:
        ndarray: int64 (C + 1, C + 1). Rows are the true classes, the last one what is spurious; columns the predicted
            classes, the last one what is missed; the last of both is 0. A row's sum is the number of true cells of a
            class, a column's that of its predictions.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for pair in pairs:
        i, j, _ = match_cells(pair)
        of_truth, of_predicted = np.full(len(pair.truth), num_classes), np.full(len(pair.predicted), num_classes)
        of_truth[i], of_predicted[j] = pair.predicted.labels[j], pair.truth.labels[i]
        np.add.at(matrix, (pair.truth.labels, of_truth), 1)
        spurious = of_predicted == num_classes
        np.add.at(matrix[num_classes], pair.predicted.labels[spurious], 1)
    return matrix


def judge(pair):
    """What became of each cell, at a mask IoU above 0.5.

    Args:
        pair (ImagePair): As `ImagePair.confident` gives it.

    Returns:
        tuple[list[str], list[str]]: For each true cell 'found', 'confused' (found under another class) or 'missed'; for
            each predicted one 'right', 'confused' or 'spurious'.
    """
    i, j, _ = match_cells(pair)
    confused = pair.truth.labels[i] != pair.predicted.labels[j]
    truth, predicted = np.full(len(pair.truth), 'missed', object), np.full(len(pair.predicted), 'spurious', object)
    truth[i], predicted[j] = (np.where(confused, 'confused', right) for right in ('found', 'right'))
    return truth.tolist(), predicted.tolist()
