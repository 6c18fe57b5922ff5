"""From which score on a prediction is taken for a cell, class by class."""
import numpy as np

from cellseg_mm.errors import CellDataError
from cellseg_mm.io.files import read_json, write_json
from cellseg_mm.io.work_dir import thresholds_path

FALLBACK = 0.5  # where nothing was found right, so that no score is better than another


def best_thresholds(matches, classes, max_dets):
    """The score threshold of each class that maximises its F1 at a mask IoU of 0.5.

    F1 = 2 TP / (predictions + true cells). Of several thresholds with the same F1, the highest. It lies between the
    lowest score that it accepts and the next lower one, near their middle, rounded to as few decimals as tell them
    apart; where no score is lower, it is the accepted one. So neither rounding nor JSON changes what it selects.

    Args:
        matches (Matches): Of `match_detections`, by masks.
        classes (Sequence[str]): C names in the order of the labels.
        max_dets (int): The dense cap: detections for each image and class.

    Returns:
        dict[str, float]: Accept predictions of this score or above. A class of which nothing was found right (it has no
            cells or no predictions, or none fits) has the threshold that maximises the F1 of all classes together; if
            nothing was found right at all, 0.5.
    """
    counts = (matches.rank < max_dets) & ~matches.ignored[:, 0]
    label, score, right = matches.label[counts], matches.score[counts], matches.matched[counts, 0]
    cells = matches.count.sum(0)
    pooled = _best(score, right, cells.sum())
    pooled = FALLBACK if pooled is None else pooled
    best = (_best(score[label == number], right[label == number], cells[number]) for number in range(len(classes)))
    return {name: pooled if threshold is None else threshold for name, threshold in zip(classes, best, strict=True)}


def _best(score, right, cells):
    if not right.any():
        return None
    order = np.argsort(-score)
    score, hits = score[order], np.cumsum(right[order])
    # A threshold accepts all of equal score.
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True))
    # Equal fractions divide to equal numbers, of which argmax takes the first: that of the highest score.
    best = np.argmax(hits[last] / (last + 1 + cells))
    accepted = float(score[last[best]])
    return accepted if last[best] == len(score) - 1 else _between(float(score[last[best] + 1]), accepted)


def _between(low, high):
    """A number above `low` and not above `high`, near their middle, of few decimals."""
    middle = low + (high - low) / 2
    rounded = (round(middle, decimals) for decimals in range(18))
    return next((number for number in rounded if low < number <= high), high)


def thresholds_of(checkpoint, classes, views=()):
    """The thresholds beside a checkpoint, or 0.5 for every class where there are none.

    Args:
        checkpoint (str | Path): The checkpoint.
        classes (Sequence[str]): Its classes.
        views (Sequence[str]): Of test-time augmentation, whose own thresholds go first, if there are any.

    Returns:
        dict[str, float]: By class.

    Raises:
        CellDataError: As of `read_thresholds`.
    """
    for path in (thresholds_path(checkpoint, views), thresholds_path(checkpoint)):
        if path.is_file():
            return read_thresholds(path, classes)
    return dict.fromkeys(classes, FALLBACK)


def read_thresholds(path, classes):
    """Read what `write_thresholds` wrote.

    Args:
        path (str | Path): The file.
        classes (Sequence[str]): The classes that it must have, in any order.

    Returns:
        dict[str, float]: The threshold of each class, in the order of `classes`.

    Raises:
        CellDataError: If the file cannot be read, is no JSON object of numbers from 0 to 1, or is of other classes.
    """
    remedy = 'delete it, and evaluate the checkpoint on the validation split to write it again'
    thresholds = read_json(path, remedy)
    if not isinstance(thresholds, dict) or not all(
            type(score) in (int, float) and 0 <= score <= 1 for score in thresholds.values()):
        raise CellDataError(path, 'this is not a JSON object of one score from 0 to 1 for each class', remedy)
    if sorted(thresholds) != sorted(classes):
        raise CellDataError(path, f'the thresholds are of the classes {", ".join(thresholds)}; the configuration has '
                            f'{", ".join(classes)}', 'use those of the same model, or delete the file')
    return {name: float(thresholds[name]) for name in classes}


def write_thresholds(path, thresholds):
    """Write the threshold of each class as JSON, {class: score}, whole or not at all."""
    write_json(path, thresholds, indent=2)
