"""How far models disagree about the cells of an image, whoever is right."""
from dataclasses import replace
from itertools import combinations

import numpy as np

from cellseg_mm.evaluation.matching import match_cells


def disagreement(pairs):
    """The mean of 1 - F1 over all pairs of models, one's cells taken for true and the other's for predictions.

    Cells match at a mask IoU above 0.5 if they are of one class. F1 is the same whichever model is taken for true.

    Args:
        pairs (Sequence[ImagePair]): One image as each of M models sees it, as `ImagePair.confident` gives it.

    Returns:
        float: 0 where all find the same cells, or none, to 1 where no two share one; NaN for fewer than two models.
    """
    pairwise = [1 - _f1(first, second) for first, second in combinations(pairs, 2)]
    return float(np.mean(pairwise)) if pairwise else np.nan


def _f1(first, second):
    cells = len(first.predicted) + len(second.predicted)
    shared = match_cells(replace(second, truth=first.predicted), within_class=True)[0]
    return 2 * len(shared) / cells if cells else 1.0
