"""What is said about a training once it has predictions: the operating point, the evaluation and the report."""
import json
import shutil
from pathlib import Path

from mmengine.config import Config

from cellseg_mm.datasets.cell_dataset import check_classes, read_cells
from cellseg_mm.engine.checkpoint_hook import results_path
from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.evaluation.evaluate import evaluate, write_evaluation
from cellseg_mm.evaluation.instances import pair_images
from cellseg_mm.evaluation.operating_point import read_thresholds, thresholds_path, write_thresholds
from cellseg_mm.io.files import atomic_path
from cellseg_mm.visualization.report import write_report

RESULTS_NAME = 'val-results.json'
EVALUATION_NAME = 'val-evaluation.json'


def read_results(path):
    """Read COCO results.

    Args:
        path (str | Path): A JSON list, as tools/test.py writes it.

    Returns:
        list: Unchecked; `pair_images` checks it.

    Raises:
        CellDataError: If it cannot be read, or is no list.
    """
    try:
        results = json.loads(Path(path).read_text(encoding='utf-8'))
    except OSError as error:
        raise CellDataError(path, f'the predictions cannot be read ({error.strerror})', 'check the name') from error
    except ValueError as error:
        raise CellDataError(path, 'this is not JSON', 'predict anew by tools/test.py') from error
    if not isinstance(results, list):
        raise CellDataError(path, 'this is not a list of COCO results', 'predict by tools/test.py')
    return results


def assess(config, checkpoint, work_dir):
    """Evaluate the predictions for the validation split, at the checkpoint's operating point.

    Args:
        config (Config): That the predictions were made with.
        checkpoint (str | Path | None): Where its thresholds lie beside it, they are used; otherwise those of the best
            F1 on these predictions are, and are written there.
        work_dir (str | Path): Holds `val-results.json`, and takes `val-evaluation.json`.

    Returns:
        dict: Of `evaluate`.

    Raises:
        UserError: If predictions or annotations cannot be used.
    """
    work_dir, evaluator = Path(work_dir), config.val_evaluator
    truth = read_cells(evaluator.ann_file)
    check_classes(evaluator.ann_file, truth['categories'], config.classes)
    pairs = pair_images(truth, read_results(work_dir / RESULTS_NAME))
    thresholds_file = checkpoint and thresholds_path(checkpoint)
    known = thresholds_file is not None and thresholds_file.is_file()
    evaluation = evaluate(pairs, config.classes, evaluator.get('max_dets', config.max_dets),
                          *(read_thresholds(thresholds_file, config.classes), thresholds_file.name) if known else ())
    if thresholds_file and not known:
        write_thresholds(thresholds_file, evaluation['thresholds'])
    write_evaluation(work_dir / EVALUATION_NAME, evaluation)
    return evaluation


def conclude_training(config, work_dir, best):
    """Evaluate the best epoch's predictions, which the training kept, and write the report.

    Args:
        config (Config): Of the training.
        work_dir (str | Path): Its folder.
        best (Path | None): The best epoch's checkpoint, if there was a validation.

    Returns:
        Path: The report.
    """
    kept = best and results_path(best)
    if kept and kept.is_file():
        with atomic_path(Path(work_dir, RESULTS_NAME)) as partial:
            shutil.copyfile(kept, partial)
        # A resumed training may have thresholds of an earlier conclusion: those of the same predictions.
        assess(config, best, work_dir)
    return write_report(work_dir)


def assess_work_dir(work_dir):
    """See to it that the evaluation in a training's folder is there and not older than the predictions.

    Args:
        work_dir (str | Path): A training's folder, one that was stopped too.

    Raises:
        UserError: If there is no such folder, or predictions in it cannot be used.
    """
    work_dir = Path(work_dir)
    if not work_dir.is_dir():
        raise UserError(f'{work_dir}: there is no such folder; name that of a training, such as work_dirs/demo')
