"""What kinds of errors the average precision is lost to."""
from dataclasses import fields, replace

import numpy as np

from cellseg_mm.evaluation.coco_ap import Matches, mean_of_known, resampled_ap
from cellseg_mm.structures.compiled import compiled

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU
ERRORS = 'classification', 'localisation', 'both', 'duplicate', 'background', 'missed'


def error_breakdown(pairs, matches, max_dets):
    """The AP50 that each type of error costs: what it would be with that type alone mended, less what it is.

    Types and mending are those of TIDE (Bolya et al. 2020, https://arxiv.org/abs/2008.08115, sections 2.2 and 2.3). A
    false positive is, by the largest mask IoU that it has with a true cell of its class and with one of another, the
    first of these that holds:

    - localisation: from 0.1 to 0.5 with its class. Mended, it lies where that cell is.
    - classification: 0.5 or more with another class. Mended, it has that cell's class.
    - duplicate: more than 0.5 with its class, whose cell a higher score has matched already. Mended, it is gone.
    - background: 0.1 or less with any cell. Mended, it is gone.
    - both: the rest, 0.1 to 0.5 with another class. Mended, it is gone, since nobody knows which cell was meant.

    Missed is a true cell that is neither matched nor what a classification or localisation error should have found.
    Mended, it does not count. Wherever mending gives a cell several predictions, the highest score keeps it and the
    others are gone.

    What the types cost does not add up to what all of them cost together. Where the paper's toolbox, tidecv, deviates
    from the paper: a cell keeps its match even against a higher score that was mended; classification and localisation
    errors of one cell exclude each other although only one type is mended at a time. Where the paper leaves it open:
    there, ignored predictions are errors too, a class whose cells are all missed stays at zero when none counts any
    more (here it is perfect), classes without cells count as zero, and the cap is on all classes of an image together.

    Args:
        pairs (Sequence[ImagePair]): With all predictions.
        matches (Matches): Of `match_detections` on these pairs, by masks.
        max_dets (int): The dense cap: detections for each image and class.

    Returns:
        dict[str, float]: For each of `ERRORS`, 0 to 1, the mean over the classes that have cells; NaN if none has.
    """
    found = np.flatnonzero((matches.rank < max_dets) & ~matches.ignored[:, 0])
    matches = _chosen(matches, found[np.argsort(-matches.score[found], kind='stable')])
    label, right = matches.label, matches.matched[:, 0]
    kind, target = _classify(pairs, matches)
    truth_image = np.repeat(np.arange(len(pairs)), [len(pair.truth) for pair in pairs])
    truth_label = np.concatenate([np.zeros(0, np.int64), *(
        np.where(pair.truth.ignore, -1, pair.truth.labels) for pair in pairs)])

    mended = {}
    for error in ('classification', 'localisation'):
        claims = right | (kind == error)
        # By falling score, the first claim on each true cell.
        winners = np.flatnonzero(claims)[np.unique(target[claims], return_index=True)[1]]
        right_then, label_then = np.zeros_like(right), label.copy()
        right_then[winners], label_then[winners] = True, truth_label[target[winners]]
        corrected = replace(matches, label=label_then, matched=right_then[:, None])
        mended[error] = _ap50(_chosen(corrected, right_then | ~claims))
    for error in ('both', 'duplicate', 'background'):
        mended[error] = _ap50(_chosen(matches, kind != error))
    missed = truth_label >= 0
    missed[target[target >= 0]] = False
    left = matches.count.copy()
    np.subtract.at(left, (truth_image[missed], truth_label[missed]), 1)
    perfect = matches.count.any(0) & ~left.any(0)
    mended['missed'] = np.where(perfect, 1, _ap50(replace(matches, count=left)))
    now = _ap50(matches)
    return {error: mean_of_known(mended[error] - now) for error in ERRORS}


def _classify(pairs, matches):
    """The type of error of each detection, '' for none, and the true cell that it has or should have found, or -1.

    True cells are numbered through all images.
    """
    truths, predictions = (np.cumsum([0, *map(len, cells)]) for cells in (
        [pair.truth for pair in pairs], [pair.predicted for pair in pairs]))
    iou, truth = np.zeros((2, predictions[-1])), np.full((2, predictions[-1]), -1)
    for number, pair in enumerate(pairs):
        i, j, area = pair.overlaps
        union = pair.truth.masks.areas[i] + pair.predicted.masks.areas[j] - area
        _find_nearest(i, j, area / union, pair.truth.labels, pair.truth.ignore, pair.predicted.labels, truths[number],
                      predictions[number], iou, truth)
    place = predictions[matches.image] + matches.index
    (own, other), (own_truth, other_truth) = iou[:, place], truth[:, place]
    right = matches.matched[:, 0]
    kind = np.select(
        [right, (own >= BACKGROUND) & (own <= FOREGROUND), other >= FOREGROUND, own > FOREGROUND, other <= BACKGROUND],
        ['', 'localisation', 'classification', 'duplicate', 'background'], 'both')
    target = np.select([right, kind == 'localisation', kind == 'classification'],
                       [truths[matches.image] + matches.truth, own_truth, other_truth], -1)
    return kind, target


@compiled
def _find_nearest(i, j, ious, truth_labels, ignore, labels, first_truth, first_prediction, iou, truth):
    """Of each prediction, the largest IoU with a true cell of its class (row 0) and of another (row 1), and which."""
    for k in range(len(i)):
        row, place = int(truth_labels[i[k]] != labels[j[k]]), first_prediction + j[k]
        if not ignore[i[k]] and ious[k] > iou[row, place]:
            iou[row, place], truth[row, place] = ious[k], first_truth + i[k]


def _chosen(matches, chosen):
    """Those of an index array, int (N,) or bool (D,), all of which count."""
    return Matches(*(getattr(matches, field.name)[chosen] for field in fields(Matches)[:-1]), matches.count)


def _ap50(matches):
    """AP50 of each class, float64 (C,); NaN for one without true cells."""
    everything, once = np.iinfo(np.int64).max, np.ones((1, len(matches.count)), np.int64)
    return resampled_ap(matches, everything, once, slice(1))[0]
