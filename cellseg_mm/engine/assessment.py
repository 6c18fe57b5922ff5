"""What is said about a training once it has predictions: the operating point, the evaluation and the report."""
import filecmp
import logging
import shutil
from pathlib import Path

from mmengine.logging import print_log

from cellseg_mm.datasets.cell_dataset import check_classes, read_cells
from cellseg_mm.engine.config import load_config
from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.evaluation.evaluate import evaluate, write_evaluation
from cellseg_mm.evaluation.instances import read_pairs
from cellseg_mm.evaluation.operating_point import read_thresholds, write_thresholds
from cellseg_mm.io.files import atomic_path
from cellseg_mm.io.work_dir import (
    EVALUATION_NAME,
    RESULTS_NAME,
    best_checkpoint,
    newest_config,
    results_path,
    thresholds_path,
)
from cellseg_mm.visualization.report import write_report


def assess(config, work_dir, checkpoint=None, anew=False, views=()):
    """Evaluate the predictions for the validation split, at an operating point that is kept beside the checkpoint.

    Args:
        config (Config): That the predictions were made with.
        work_dir (str | Path): Holds `val-results.json`, and takes `val-evaluation.json`.
        checkpoint (str | Path, optional): Where there are thresholds beside it, they are used; otherwise those of the
            best F1 on these predictions are, and are written there, if that can be.
        anew (bool): Replace thresholds that there are.
        views (Sequence[str]): Of test-time augmentation, by which the predictions were made; they have thresholds of
            their own.

    Returns:
        dict: Of `evaluate`, with the file name of the checkpoint, or None, as `checkpoint`, and `views`.

    Raises:
        UserError: If predictions, annotations or thresholds cannot be used.
    """
    evaluator = config.val_evaluator
    truth = read_cells(evaluator.ann_file)
    check_classes(evaluator.ann_file, truth['categories'], config.classes)
    pairs = read_pairs(truth, Path(work_dir, RESULTS_NAME))
    path = thresholds_path(checkpoint, views) if checkpoint else None
    known = path is not None and path.is_file() and not anew
    evaluation = evaluate(pairs, config.classes, evaluator.get('max_dets', config.max_dets),
                          *((read_thresholds(path, config.classes), path.name) if known else ()))
    if path is not None and not known:
        try:
            write_thresholds(path, evaluation['thresholds'])
        except OSError as error:
            print_log(f'{path}: the score thresholds cannot be kept ({error.strerror})', 'current', logging.WARNING)
    evaluation.update(checkpoint=Path(checkpoint).name if checkpoint else None, views=sorted(set(views)))
    write_evaluation(Path(work_dir, EVALUATION_NAME), evaluation)
    return evaluation


def conclude_training(config, work_dir):
    """Evaluate the best epoch's predictions, which the training kept, and write the report.

    Args:
        config (Config): Of the training.
        work_dir (str | Path): Its folder; takes `val-results.json`, `val-evaluation.json`, thresholds beside the best
            checkpoint, and `report.html`.
    """
    best = best_checkpoint(work_dir)
    if best and _copy_results(best, work_dir):
        assess(config, work_dir, best, anew=True)
    write_report(work_dir)


def assess_work_dir(work_dir):
    """See to it that a training's folder has an evaluation of the best epoch so far, if it has any predictions.

    Args:
        work_dir (str | Path): A training's folder, also of one that goes on or was stopped.

    Raises:
        UserError: If there is no such folder, or predictions in it cannot be used.
    """
    work_dir = Path(work_dir)
    if not work_dir.is_dir():
        raise UserError(f'{work_dir}: there is no such folder; name that of a training, such as work_dirs/demo')
    results, evaluation, best = work_dir / RESULTS_NAME, work_dir / EVALUATION_NAME, best_checkpoint(work_dir)
    if best and _is_older(results, results_path(best)):
        _copy_results(best, work_dir)
    if _is_older(evaluation, results):
        path = newest_config(work_dir)
        if path is None:
            raise CellDataError(work_dir, 'the config of the training is missing', 'evaluate by tools/test.py')
        # Predictions of a test that was stopped are of a checkpoint that nothing tells.
        known = best and results_path(best).is_file() and filecmp.cmp(results, results_path(best), shallow=False)
        assess(load_config(path), work_dir, best if known else None)


def _is_older(path, source):
    """Whether what is made of a source, which need not be there, is missing or older than it."""
    return source.is_file() and not (path.is_file() and path.stat().st_mtime >= source.stat().st_mtime)


def _copy_results(checkpoint, work_dir):
    """Whether there were predictions beside the checkpoint to copy."""
    kept = results_path(checkpoint)
    if kept.is_file():
        with atomic_path(Path(work_dir, RESULTS_NAME)) as partial:
            shutil.copyfile(kept, partial)
    return kept.is_file()
