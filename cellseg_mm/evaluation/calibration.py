"""Whether a score says how likely a prediction is to be right."""
import numpy as np


def reliability(matches, max_dets, bins=15):
    """The share of right predictions, matched in their class at a mask IoU of 0.5, by their score.

    The reliability diagram of detectors (Küppers et al. 2020, https://arxiv.org/abs/2004.13546, by confidence alone).

    Args:
        matches (Matches): Of `match_detections`, by masks.
        max_dets (int): The dense cap: detections for each image and class. Ignored ones are left out.
        bins (int): B bins of equal width from 0 to 1; each holds its upper edge, the first one 0 too.

    Returns:
        dict[str, list]: Of B each: 'confidence', the mean score; 'precision', the share of right predictions; both NaN
            in an empty bin; 'count', how many predictions there are.
    """
    counts = (matches.rank < max_dets) & ~matches.ignored[:, 0]
    score, right = matches.score[counts], matches.matched[counts, 0]
    number = np.searchsorted(np.arange(1, bins) / bins, score)
    count = np.bincount(number, minlength=bins)
    with np.errstate(invalid='ignore'):
        confidence, precision = (np.bincount(number, values, bins) / count for values in (score, right))
    return {'confidence': confidence.tolist(), 'precision': precision.tolist(), 'count': count.tolist()}


def expected_calibration_error(diagram):
    """How far score and precision lie apart, on average over predictions.

    sum of count / total * |precision - confidence| over bins (Naeini et al. 2015, Obtaining Well Calibrated
    Probabilities Using Bayesian Binning).

    Args:
        diagram (dict[str, list]): Of `reliability`.

    Returns:
        float: 0, as likely right as the scores say, to 1; NaN without predictions.
    """
    confidence, precision, count = (np.array(diagram[key]) for key in ('confidence', 'precision', 'count'))
    filled = count > 0
    return float(np.average(abs(precision - confidence)[filled], weights=count[filled])) if filled.any() else np.nan
