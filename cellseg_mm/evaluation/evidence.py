"""What the main figures of any choice of images follow from, and whether two models differ by more than chance."""
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np

from cellseg_mm.evaluation.coco_ap import COCO_CAP, Matches, match_detections, mean_of_known, resampled_ap
from cellseg_mm.evaluation.detection import precision_recall_f1
from cellseg_mm.evaluation.operating_point import best_thresholds
from cellseg_mm.evaluation.panoptic import Counts, segmentation_quality
from cellseg_mm.evaluation.uncertainty import interval, p_value, resample_groups, swap_groups

REPLICATES = 2000  # resamples, and swaps of two models
_OF_IMAGES = 'bPQ', 'mPQ', 'AJI', 'Dice'


@dataclass(frozen=True)
class Evidence:
    """Counts of I images, of which each may be taken several times or not at all.

    Attributes:
        classes (tuple[str]): C names.
        max_dets (int): The dense cap.
        thresholds (dict[str, float] | list[dict[str, float]]): The operating point by class, or that of each image.
        confident (list[ImagePair]): (I,), at the operating point.
        matches (Matches): Of the masks of all predictions.
        segmentation (dict[str, float]): The metrics of `segmentation_quality`.
        images (dict[str, ndarray]): float64 (I,) each, whose means are figures; NaN where undefined.
        counts (Counts): (I, C + 1), matches at the operating point.
    """

    classes: tuple
    max_dets: int
    thresholds: dict | list
    confident: list
    matches: Matches
    segmentation: dict
    images: dict
    counts: Counts

    def figures(self, weights):
        """AP50 and AP, bPQ, mPQ, AJI, Dice and F1, with images counted as often as weights say.

        Args:
            weights (ndarray): int (R, I).

        Returns:
            dict[str, ndarray]: float64 (R,) each, NaN where undefined; names as in `evaluate`.
        """
        weights = np.asarray(weights, np.int64)
        at_dense = resampled_ap(self.matches, self.max_dets, weights, slice(1))
        found = {'AP50_dense': mean_of_known(at_dense, 1),
                 'AP50_cap100': mean_of_known(resampled_ap(self.matches, COCO_CAP, weights, slice(1)), 1),
                 'AP_dense': mean_of_known(resampled_ap(self.matches, self.max_dets, weights), 1)}
        found |= {f'AP50_dense/{name}': at_dense[:, label] for label, name in enumerate(self.classes)}
        for name, values in self.images.items():
            known = ~np.isnan(values)
            total = weights @ known
            found[name] = weights @ np.where(known, values, 0) / np.where(total, total, np.nan)
        found['F1'] = precision_recall_f1(*(weights @ count[:, -1] for count in self.counts[:3]))[2]
        return found

    def ap50_of_images(self):
        """AP50 of each image alone at the dense cap, the mean over its classes: float64 (I,), NaN without cells."""
        starts = np.searchsorted(self.matches.image, np.arange(len(self.confident) + 1))
        found = np.empty(len(self.confident))
        for image, (start, stop) in enumerate(pairwise(starts)):
            part = Matches(*(getattr(self.matches, field.name)[start:stop] for field in fields(Matches)[:-1]),
                           self.matches.count[image:image + 1])
            part = replace(part, image=np.zeros_like(part.image))
            found[image] = mean_of_known(resampled_ap(part, self.max_dets, np.ones((1, 1)), slice(1))[0])
        return found


def gather(pairs, classes, max_dets, thresholds=None):
    """Match and count.

    Args:
        pairs (list[ImagePair]): The images, one or more.
        classes (Sequence[str]): Names of the classes.
        max_dets (int): The dense cap: detections for each image and class.
        thresholds (dict[str, float] | list[dict[str, float]], optional): The operating point, or that of each image; if
            not given, that of the best F1 on these images.

    Returns:
        Evidence: Of them.
    """
    matches = match_detections(pairs, len(classes))
    thresholds = thresholds or best_thresholds(matches, classes, max_dets)
    of_images = thresholds if isinstance(thresholds, list) else [thresholds] * len(pairs)
    confident = [pair.confident([scores[name] for name in classes])
                 for pair, scores in zip(pairs, of_images, strict=True)]
    segmentation, images, counts = segmentation_quality(confident, classes)
    return Evidence(tuple(classes), max_dets, thresholds, confident, matches, segmentation,
                    {name: images[name] for name in _OF_IMAGES}, counts)


def compare(first, second, replicates=REPLICATES, seed=0):
    """Whether the predictions of two models for the same images differ by more than chance.

    Args:
        first (Evidence): Of one model.
        second (Evidence): Of the other.
        replicates (int): Resamples and swaps, each.
        seed (int): Of both.

    Returns:
        dict[str, dict]: By figure `first` and `second`, `difference` (second - first), its 95% `interval` from
            resampling groups, and `p`, that of a test which swaps the models' predictions for whole groups.
    """
    groups = [pair.group for pair in first.confident]
    weights = resample_groups(groups, replicates, seed)
    resampled = [evidence.figures(weights) for evidence in (first, second)]
    whole = [evidence.figures(np.ones((1, len(groups)))) for evidence in (first, second)]
    swapped, exact = swap_groups(groups, replicates, seed)
    both = _join(first, second)
    swaps = [both.figures(np.hstack([kept, ~kept])) for kept in (~swapped, swapped)]
    found = {}
    for name in whole[0]:
        before, after = (float(figures[name][0]) for figures in whole)
        found[name] = {'first': before, 'second': after, 'difference': after - before,
                       'interval': interval(resampled[1][name] - resampled[0][name], len(set(groups))),
                       'p': p_value(after - before, swaps[1][name] - swaps[0][name], exact)}
    return found


def _join(first, second):
    """The evidence of 2 I images: those with the predictions of one model, then the same with those of the other."""
    shifted = replace(second.matches, image=second.matches.image + len(first.confident))
    return replace(
        first, matches=Matches(*(np.concatenate([getattr(matches, field.name) for matches in (first.matches, shifted)])
                                 for field in fields(Matches))),
        images={name: np.concatenate([first.images[name], second.images[name]]) for name in first.images},
        counts=Counts(*map(np.concatenate, zip(first.counts, second.counts, strict=True))))
