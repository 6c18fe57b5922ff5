"""All that is said about a set of predictions."""
import numpy as np

from cellseg_mm.evaluation.calibration import expected_calibration_error, reliability
from cellseg_mm.evaluation.coco_ap import average_precision, precision_at_recalls
from cellseg_mm.evaluation.confusion import confusion_matrix
from cellseg_mm.evaluation.detection import detection_quality
from cellseg_mm.evaluation.error_breakdown import error_breakdown
from cellseg_mm.evaluation.evidence import REPLICATES, gather
from cellseg_mm.evaluation.uncertainty import interval, resample_groups


def evaluate(pairs, classes, max_dets, thresholds=None, thresholds_from=None, replicates=REPLICATES, seed=0):
    """Evaluate predictions.

    Args:
        pairs (list[ImagePair]): The images, one or more.
        classes (Sequence[str]): Names of the classes.
        max_dets (int): The dense cap: detections for each image and class.
        thresholds (dict[str, float], optional): The operating point, which all but AP, calibration and errors rest on.
            If not given, the one of the best F1 on these images, which flatters them a little.
        thresholds_from (str, optional): Where they come from, for a reader.
        replicates (int): Resamples that the intervals come from; 0 for no intervals.
        seed (int): Of the resamples.

    Returns:
        dict: Plain values, with NaN where something is undefined:

            - `images, groups, cells, predictions, max_dets` (int), `classes` (list), `thresholds` (by class),
              `thresholds_from` (str).
            - `metrics`: `average_precision` of masks, and with 'box_' before of boxes; `segmentation_quality`;
              `detection_quality`; `ECE`, the expected calibration error.
            - `intervals`: [low, high], 95%, of the main metrics, from resampling groups.
            - `confusion`: rows of `confusion_matrix`.
            - `errors`: `error_breakdown`.
            - `precision_recall`: by class, the `precision` at the recalls 0, 0.01, ..., 1, IoU 0.5 and the dense cap.
            - `calibration`: `reliability`.
            - `per_image`: by image `image_id, name, group, cells, predictions, AP50, PQ, AJI, Dice, F1`.
    """
    evidence = gather(pairs, classes, max_dets, thresholds)
    if thresholds is None:
        thresholds_from = 'these same images'
    diagram = reliability(evidence.matches, max_dets)
    metrics = average_precision(pairs, classes, max_dets)
    metrics |= {f'box_{name}': value for name, value in average_precision(pairs, classes, max_dets, 'bbox').items()}
    metrics |= evidence.segmentation | detection_quality(evidence.confident, classes)[0]
    metrics['ECE'] = expected_calibration_error(diagram)
    curves = precision_at_recalls(evidence.matches, max_dets)[:, 0]
    intervals = {}
    if replicates:
        weights = resample_groups([pair.group for pair in pairs], replicates, seed)
        intervals = {name: interval(values) for name, values in evidence.figures(weights).items()}
    return {
        'images': len(pairs), 'groups': len({pair.group for pair in pairs}),
        'cells': int(evidence.matches.count.sum()), 'predictions': sum(len(pair.predicted) for pair in pairs),
        'classes': list(classes), 'max_dets': max_dets,
        'thresholds': evidence.thresholds, 'thresholds_from': thresholds_from,
        'metrics': metrics, 'intervals': intervals,
        'confusion': confusion_matrix(evidence.confident, len(classes)).tolist(),
        'errors': error_breakdown(pairs, evidence.matches, max_dets),
        'precision_recall': {name: {'precision': curve.tolist()}
                             for name, curve in zip(classes, curves, strict=True)},
        'calibration': diagram,
        'per_image': _per_image(evidence)}


def _per_image(evidence):
    alone = evidence.figures(np.eye(len(evidence.confident)))
    names = {'AP50': 'AP50_dense', 'PQ': 'bPQ', 'AJI': 'AJI', 'Dice': 'Dice', 'F1': 'F1'}
    return [{'image_id': pair.image_id, 'name': pair.name, 'group': pair.group, 'cells': len(pair.truth),
             'predictions': len(pair.predicted), **{name: float(alone[key][i]) for name, key in names.items()}}
            for i, pair in enumerate(evidence.confident)]
