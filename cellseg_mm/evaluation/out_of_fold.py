"""What the folds of a cross-validation say, each alone and all together."""
import math
from textwrap import fill
from typing import NamedTuple

import numpy as np

from cellseg_mm.evaluation.coco_ap import match_detections
from cellseg_mm.evaluation.evaluate import evaluate
from cellseg_mm.evaluation.evidence import REPLICATES
from cellseg_mm.evaluation.operating_point import best_thresholds
from cellseg_mm.evaluation.uncertainty import FEW_GROUPS

OTHER_FOLDS = 'the best F1 on the other folds'
_TITLES = {'AP50_dense': 'AP50, dense cap', 'AP50_cap100': 'AP50, cap 100', 'AP_dense': 'AP, dense cap',
           'bPQ': 'PQ, any class', 'mPQ': 'PQ, mean of classes', 'AJI': 'AJI', 'Dice': 'Dice', 'F1': 'F1 at IoU 0.5'}

NOTES = (
    ('Each fold is scored by a model that did not train on its images, nor on others of their groups. But the epoch is '
     'the one of the best AP50 on these same images, which flatters all figures a little.'),
    ('PQ, AJI, Dice and F1 regard predictions above score thresholds. Those of a fold are the ones of the best F1 on '
     "the other folds, so that they do not flatter; the fold's own report uses its own, which do."),
    ('Mean and SD, the standard deviation (n - 1), are of the folds that have such cells. Their trainings share most '
     'images, so that SD / sqrt(n) is no standard error (Bengio and Grandvalet 2004).'),
    ('Pooled are the predictions of all folds against all cells, with the 95% interval from resampling groups of '
     'images; how trainings differ by chance is not in it. Pooled AP ranks the scores of several models together, and '
     'may be lower than the mean where these are not on one scale (Forman and Scholz 2010).'))


class Row(NamedTuple):
    """A metric in all folds.

    Attributes:
        name (str): As in `evaluate`.
        title (str): For a reader.
        folds (list[float]): Of each; NaN where undefined.
        mean (float): Over the folds where it is defined.
        deviation (float): Their standard deviation (n - 1); NaN for fewer than two.
        pooled (float): Of all images together.
        interval (list[float]): 95%, of that.
    """

    name: str
    title: str
    folds: list
    mean: float
    deviation: float
    pooled: float
    interval: list


def evaluate_folds(folds, classes, max_dets, replicates=REPLICATES, seed=0):
    """Evaluate each fold, and all together, each at the operating point of the best F1 on the other folds.

    Args:
        folds (list[list[ImagePair]]): Of two or more folds, the images validated on.
        classes (Sequence[str]): Names of the classes.
        max_dets (int): The dense cap: detections for each image and class.
        replicates (int): Resamples of groups that the intervals of the pooled metrics come from.
        seed (int): Of the resamples.

    Returns:
        tuple[list[dict], dict]: That of `evaluate`, without intervals, for each fold; and for all images together, by
            ascending id, with intervals. The latter's `thresholds` are empty, since each fold has its own.
    """
    at_best = [_thresholds_of_others(folds, number, classes, max_dets) for number in range(len(folds))]
    alone = [evaluate(pairs, classes, max_dets, thresholds, OTHER_FOLDS, replicates=0)
             for pairs, thresholds in zip(folds, at_best, strict=True)]
    # Sorted by image, each with the thresholds of its fold.
    pairs, of_images = zip(*sorted(
        ((pair, thresholds) for pairs, thresholds in zip(folds, at_best, strict=True) for pair in pairs),
        key=lambda both: both[0].image_id), strict=True)
    return alone, evaluate(list(pairs), classes, max_dets, list(of_images), OTHER_FOLDS, replicates, seed)


def _thresholds_of_others(folds, number, classes, max_dets):
    others = [pair for other, pairs in enumerate(folds) if other != number for pair in pairs]
    return best_thresholds(match_detections(others, len(classes)), classes, max_dets)


def summarise(alone, pooled):
    """The main metrics of `evaluate_folds`, and AP50 of each class.

    Args:
        alone (list[dict]): Evaluations of the folds.
        pooled (dict): Of all images together.

    Returns:
        list[Row]: One for each metric.
    """
    titles = _TITLES | {f'AP50_dense/{name}': f'AP50, {name}' for name in pooled['classes']}
    rows = []
    for name, title in titles.items():
        values = [evaluation['metrics'][name] for evaluation in alone]
        known = [value for value in values if not math.isnan(value)]
        rows.append(Row(name, title, values, float(np.mean(known)) if known else math.nan,
                        float(np.std(known, ddof=1)) if len(known) > 1 else math.nan, pooled['metrics'][name],
                        pooled['intervals'][name]))
    return rows


def format_folds(rows, pooled):
    """Lines to print about a cross-validation.

    Args:
        rows (list[Row]): Of `summarise`.
        pooled (dict): Of `evaluate_folds`.

    Returns:
        str: A row for each metric, and how to read them.
    """
    width = max(len(row.title) for row in rows)
    headings = *(f'fold{number}' for number in range(len(rows[0].folds))), 'mean', 'SD', 'pooled'
    lines = [' ' * width + ''.join(f'{heading:>8}' for heading in headings) + '  95% interval']
    for row in rows:
        values = *row.folds, row.mean, row.deviation, row.pooled
        lines.append(f'{row.title:{width}}' + ''.join(f'{_text(value):>8}' for value in values)
                     + f'  [{", ".join(map(_text, row.interval))}]')
    notes = [fill(text, 110, subsequent_indent='  ') for text in (f'Pooled: {extent(pooled)}.', *NOTES)]
    return '\n'.join([*lines, '', *notes])


def extent(pooled):
    """What all folds together are, in words."""
    groups = pooled['groups']
    few = ' (few: take the intervals for too narrow)' if groups < FEW_GROUPS else ''
    return (f'{pooled["cells"]:,} cells in {pooled["images"]:,} images of {groups:,} group{"s" * (groups > 1)}{few}')


def _text(value):
    return '-' if math.isnan(value) else f'{value:.3f}'
