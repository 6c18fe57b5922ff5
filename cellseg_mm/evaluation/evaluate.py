"""All that is said about a set of predictions."""
import math

from cellseg_mm.errors import CellDataError
from cellseg_mm.evaluation.calibration import expected_calibration_error, reliability
from cellseg_mm.evaluation.coco_ap import average_precision, format_table, precision_at_recalls
from cellseg_mm.evaluation.confusion import confusion_matrix
from cellseg_mm.evaluation.detection import detection_quality, precision_recall_f1
from cellseg_mm.evaluation.error_breakdown import error_breakdown
from cellseg_mm.evaluation.evidence import REPLICATES, gather
from cellseg_mm.evaluation.panoptic import panoptic_quality
from cellseg_mm.evaluation.uncertainty import FEW_GROUPS, interval, resample_groups
from cellseg_mm.io.files import read_json, write_json

SAME_IMAGES = 'these same images'
_AP_FIGURES = {'AP50_dense': 'AP50', 'AP_dense': 'AP', 'box_AP50_dense': 'AP50 of boxes', 'box_AP_dense': 'AP of boxes'}
_FIGURES = {'bPQ': 'PQ of all classes as one', 'mPQ': 'PQ, mean over classes', 'AJI': 'AJI', 'Dice': 'Dice',
            'F1': 'F1 at IoU 0.5', 'F1_centroid': 'F1 of centroids'}


def evaluate(pairs, classes, max_dets, thresholds=None, thresholds_from=None, replicates=REPLICATES, seed=0):
    """Evaluate predictions.

    Args:
        pairs (list[ImagePair]): The images, one or more.
        classes (Sequence[str]): Names of the classes.
        max_dets (int): The dense cap: detections for each image and class.
        thresholds (dict[str, float] | list[dict[str, float]], optional): The operating point, or that of each image,
            which all but AP, calibration and errors rest on. If not given, the one of the best F1 on these images,
            which flatters them a little.
        thresholds_from (str, optional): Where they come from, for a reader.
        replicates (int): Resamples that the intervals come from; 0 for no intervals.
        seed (int): Of the resamples.

    Returns:
        dict: Plain values, with NaN where something is undefined:

            - `images, groups, cells, predictions, max_dets` (int), `classes` (list), `thresholds` (by class; empty
              where each image has its own), `thresholds_from` (str).
            - `metrics`: `average_precision` of masks, and with 'box_' before of boxes; `segmentation_quality`;
              `detection_quality`; `ECE`, the expected calibration error.
            - `intervals`: [low, high], 95%, of the main metrics, from resampling groups; NaN where there is one group.
            - `confusion`: rows of `confusion_matrix`.
            - `errors`: `error_breakdown`.
            - `precision_recall`: by class, the `precision` at the recalls 0, 0.01, ..., 1, IoU 0.5 and the dense cap.
            - `calibration`: `reliability`.
            - `per_image`: by image `image_id, name, group, cells, predictions, AP50, AJI, Dice, F1, DQ, SQ, PQ`, the
              last three also with '/<class>'.
    """
    evidence = gather(pairs, classes, max_dets, thresholds)
    return evaluate_evidence(pairs, evidence, thresholds_from if thresholds else SAME_IMAGES, replicates, seed)


def evaluate_evidence(pairs, evidence, thresholds_from=SAME_IMAGES, replicates=REPLICATES, seed=0):
    """What `evaluate` says, of evidence at hand.

    Args:
        pairs (list[ImagePair]): The images.
        evidence (Evidence): What `gather` found in them.
        thresholds_from (str): As of `evaluate`.
        replicates (int): As of `evaluate`.
        seed (int): As of `evaluate`.

    Returns:
        dict: As of `evaluate`.
    """
    classes, max_dets, thresholds = evidence.classes, evidence.max_dets, evidence.thresholds
    curves = precision_at_recalls(evidence.matches, max_dets)[:, 0]
    intervals, groups = {}, [pair.group for pair in pairs]
    number = len(set(groups))
    if replicates:
        weights = resample_groups(groups, replicates, seed)
        intervals = {name: interval(values, number) for name, values in evidence.figures(weights).items()}
    return {
        'images': len(pairs), 'groups': number,
        'cells': int(evidence.matches.count.sum()), 'predictions': sum(len(pair.predicted) for pair in pairs),
        'classes': list(classes), 'max_dets': max_dets,
        'thresholds': {} if isinstance(thresholds, list) else thresholds, 'thresholds_from': thresholds_from,
        'metrics': metrics_of(pairs, evidence), 'intervals': intervals,
        'confusion': confusion_matrix(evidence.confident, len(classes)).tolist(),
        'errors': error_breakdown(pairs, evidence.matches, max_dets),
        'precision_recall': {name: {'precision': curve.tolist()}
                             for name, curve in zip(classes, curves, strict=True)},
        'calibration': reliability(evidence.matches, max_dets),
        'per_image': _per_image(evidence)}


def metrics_of(pairs, evidence):
    """The `metrics` of `evaluate`.

    Args:
        pairs (list[ImagePair]): The images.
        evidence (Evidence): What `gather` found in them.

    Returns:
        dict[str, float]: NaN where undefined.
    """
    classes, max_dets = evidence.classes, evidence.max_dets
    metrics = average_precision(pairs, classes, max_dets)
    metrics |= {f'box_{name}': value for name, value in average_precision(pairs, classes, max_dets, 'bbox').items()}
    metrics |= evidence.segmentation | detection_quality(evidence.confident, evidence.counts, classes)
    return metrics | {'ECE': expected_calibration_error(reliability(evidence.matches, max_dets))}


def _per_image(evidence):
    columns = {'AP50': evidence.ap50_of_images(), **{name: evidence.images[name] for name in ('AJI', 'Dice')},
               'F1': precision_recall_f1(*(count[:, -1] for count in evidence.counts[:3]))[2]}
    suffixes = [*(f'/{name}' for name in evidence.classes), '']
    for name, values in zip(('DQ', 'SQ', 'PQ'), panoptic_quality(*evidence.counts), strict=True):
        columns |= {f'{name}{suffix}': of_class for suffix, of_class in zip(suffixes, values.T, strict=True)}
    return [{'image_id': pair.image_id, 'name': pair.name, 'group': pair.group, 'cells': len(pair.truth),
             'predictions': len(pair.predicted), **{name: float(values[i]) for name, values in columns.items()}}
            for i, pair in enumerate(evidence.confident)]


def write_evaluation(path, evaluation):
    """Write what `evaluate` returned as JSON, with null for NaN."""
    write_json(path, _with_null(evaluation), indent=1)


def read_evaluation(path):
    """Read what `write_evaluation` wrote; what was NaN is None.

    Args:
        path (str | Path): The file.

    Returns:
        dict: As of `evaluate`.

    Raises:
        CellDataError: If it cannot be read.
    """
    remedy = 'delete it, and evaluate again'
    evaluation = read_json(path, remedy)
    if not isinstance(evaluation, dict) or not {'metrics', 'classes', 'per_image'} <= evaluation.keys():
        raise CellDataError(path, 'this is not an evaluation', remedy)
    return evaluation


def _with_null(value):
    if isinstance(value, dict):
        return {key: _with_null(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_null(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def format_evaluation(evaluation):
    """Lines to print: AP of each class at both caps, and the main metrics with their intervals.

    Args:
        evaluation (dict): Of `evaluate`.

    Returns:
        str: Some lines.
    """
    metrics, intervals, groups = (evaluation[key] for key in ('metrics', 'intervals', 'groups'))
    thresholds = ', '.join(f'{name} {score:.3g}' for name, score in evaluation['thresholds'].items())
    lines = [format_table(metrics, evaluation['classes']), '']
    for heading, names in (('AP of masks and of boxes, at the dense cap', _AP_FIGURES),
                           (f'at the score thresholds {thresholds} (from {evaluation["thresholds_from"]})', _FIGURES)):
        lines += [f'{heading}:', *(_line(title, metrics[name], intervals.get(name)) for name, title in names.items())]
    if intervals and groups == 1:
        lines.append('[no intervals, since all images are of one group]')
    elif intervals:
        few = ', which is few: take them for too narrow' if groups < FEW_GROUPS else ''
        what = 'images, each a group of its own' if groups == evaluation['images'] else 'groups of images'
        lines.append(f'[95% intervals, from resampling {groups} {what}{few}]')
    return '\n'.join(lines)


def _line(title, value, ends):
    if value is None or math.isnan(value):
        return f'  {title:28} -'
    known = ends and None not in ends and not any(map(math.isnan, ends))
    return f'  {title:28} {value:.3f}' + (f'  [{ends[0]:.3f}, {ends[1]:.3f}]' if known else '')


def format_comparison(comparison, groups):
    """Lines to print about a comparison of two models.

    Args:
        comparison (dict): Of `cellseg_mm.evaluation.evidence.compare`.
        groups (int): How many groups its images are of.

    Returns:
        str: A row for each figure.
    """
    width = max(map(len, comparison))
    lines = [f'{"":{width}}{"first":>9}{"second":>9}{"difference":>12}   {"95% interval":18}{"p":>8}']
    for name, figure in comparison.items():
        if math.isnan(figure['difference']):
            lines.append(f'{name:{width}}{"-":>9}{"-":>9}')
            continue
        low, high = figure['interval']
        ends = '-' if math.isnan(low) else f'[{low:+.3f}, {high:+.3f}]'
        lines.append(f'{name:{width}}{figure["first"]:9.3f}{figure["second"]:9.3f}{figure["difference"]:+12.3f}   '
                     f'{ends:18}{figure["p"]:8.4f}')
    few = ', which is few: take intervals for too narrow' if groups < FEW_GROUPS else ''
    lines += [f'interval: resampled groups; p: predictions swapped group by group; groups: {groups}{few}']
    return '\n'.join(lines)
