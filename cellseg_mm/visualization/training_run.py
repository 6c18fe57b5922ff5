"""What the work directory of a training tells: its log, its evaluation, its settings."""
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mmengine.config import Config

from cellseg_mm.datasets.cell_dataset import check_classes, read_cells
from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.evaluation.evaluate import read_evaluation
from cellseg_mm.evaluation.instances import pair_images, read_results
from cellseg_mm.io.work_dir import EVALUATION_NAME, RECORD_NAME, RESULTS_NAME, epoch_files, newest_config
from cellseg_mm.visualization.charts import is_known
from cellseg_mm.visualization.curves import read_epochs, read_log


@dataclass
class History:
    """What was logged while the model was trained; all series are (x, y), lists of finite numbers.

    Attributes:
        unit (str): What x counts, 'epoch' or 'iteration'.
        training (dict[str, tuple]): The training loss by part, '' for their sum.
        validation (dict[str, tuple]): The validation loss likewise.
        scores (dict[str, tuple]): The validation metrics by name, such as 'AP50_dense/class1'.
        rate (tuple): The learning rate by iteration.
    """

    unit: str
    training: dict
    validation: dict
    scores: dict
    rate: tuple


@dataclass
class TrainingRun:
    """What a work directory holds; None or empty for what it does not.

    Attributes:
        work_dir (Path): The folder.
        history (History | None): What was logged.
        evaluation (dict | None): As `evaluation.evaluate` makes it.
        record (dict): Of `run.json`: how long it took, on what.
        config_path (Path | None): The config.
        config (Config | dict): The same, read.
        classes (list[str]): Names of the classes.
        pairs (dict[int, ImagePair]): By image id, the predictions at the evaluation's thresholds.
        problems (list[str]): Why something could not be read.
    """

    work_dir: Path
    history: History | None
    evaluation: dict | None
    record: dict
    config_path: Path | None
    config: dict
    classes: list = field(default_factory=list)
    pairs: dict = field(default_factory=dict)
    problems: list = field(default_factory=list)

    @property
    def best_epoch(self):
        """That of the best checkpoint; of the best AP50 in the log where there is none; None without validation."""
        epochs = [epoch for kind, epoch, _ in epoch_files(self.work_dir) if kind == 'best_epoch']
        if epochs:
            return max(epochs)
        steps, scores = (self.history.scores if self.history else {}).get('AP50_dense', ((), ()))
        return steps[int(np.argmax(scores))] if steps else None


def read_run(work_dir):
    """Read a work directory.

    Args:
        work_dir (str | Path): That of a training, finished or not.

    Returns:
        TrainingRun: What it holds.

    Raises:
        UserError: If there is neither a training log nor an evaluation in it.
        CellDataError: If the evaluation or `run.json` is broken.
    """
    work_dir = Path(work_dir)
    history, evaluation_path = _read_history(work_dir), work_dir / EVALUATION_NAME
    evaluation = read_evaluation(evaluation_path) if evaluation_path.is_file() else None
    if history is None and evaluation is None:
        raise UserError(f'{work_dir}: there is neither a training log (*/vis_data/scalars.json) nor an evaluation '
                        f'({EVALUATION_NAME}) in it; name the work directory of a training')
    path = newest_config(work_dir)
    run = TrainingRun(work_dir, history, evaluation, _read_record(work_dir / RECORD_NAME), path, {})
    if path:
        try:
            run.config = Config.fromfile(path, import_custom_modules=False)
        except Exception as error:  # a config is Python code: anything can go wrong in it
            run.problems.append(f'the config {path.name} cannot be read ({type(error).__name__}: {error})')
    run.classes = list((evaluation or {}).get('classes') or run.config.get('classes') or [
        name.removeprefix('AP50_dense/') for name in history.scores if name.startswith('AP50_dense/')])
    if evaluation:
        run.pairs = _read_pairs(run)
    return run


def _read_record(path):
    """What is in `run.json`; {} without one."""
    try:
        record = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise CellDataError(path, 'this is not JSON', 'delete it, and write the report again') from error
    if not isinstance(record, dict):
        raise CellDataError(path, 'this is not a JSON object', 'delete it, and write the report again')
    return record


def _read_history(work_dir):
    try:
        training, validation = read_log(work_dir)
    except UserError:
        return None
    by_epoch = all('epoch' in record for record in training)
    steps = [record['step'] for record in training]
    losses = _series([{key: value for key, value in record.items() if 'loss' in key} for record in training],
                     [record['epoch'] for record in training] if by_epoch else steps)
    scores = _series(validation, [record['step'] for record in validation])
    history = History('epoch' if by_epoch else 'iteration',
                       {_part(key, 'loss'): _mean_by_x(*xy) for key, xy in losses.items()}, {},
                       {key.removeprefix('cells/'): xy for key, xy in scores.items()},
                       _series(training, steps).get('lr', ((), ())))
    epochs = read_epochs(work_dir)
    for key, xy in _series(epochs, [record['step'] for record in epochs]).items():
        for prefix, parts in (('epoch/train_loss', history.training), ('epoch/val_loss', history.validation)):
            if key.startswith(prefix):
                parts[_part(key, prefix)] = xy
    return history


def _part(key, prefix):
    """'cls' of 'loss_cls' and '' of 'loss'."""
    return key.removeprefix(prefix).removeprefix('_').replace('loss_', '')


def _series(records, steps):
    """{key: (x, y)} of all finite numbers in records."""
    series = {}
    for step, record in zip(steps, records, strict=True):
        for key, value in record.items():
            if is_known(value):
                x, y = series.setdefault(key, ([], []))
                x.append(step)
                y.append(value)
    return series


def _mean_by_x(x, y):
    places, index = np.unique(x, return_inverse=True)
    return places.tolist(), (np.bincount(index, y) / np.bincount(index)).tolist()


def _read_pairs(run):
    """`TrainingRun.pairs`; {}, and a problem, where something is missing."""
    results = run.work_dir / RESULTS_NAME
    annotations = (run.config.get('val_evaluator') or {}).get('ann_file')
    if not annotations or not results.is_file():
        run.problems.append('the config names no annotations (val_evaluator.ann_file)' if results.is_file()
                           else f'there is no {RESULTS_NAME}, the predictions')
        return {}
    if not Path(annotations).is_file():
        run.problems.append(f'the annotations {annotations} are not there'
                            + '; name the work directory from the folder that the training was started in'
                            * (not Path(annotations).is_absolute()))
        return {}
    try:
        truth = read_cells(annotations)
        check_classes(annotations, truth['categories'], run.classes)
        pairs = pair_images(truth, read_results(results))
    except UserError as error:
        run.problems.append(f'true and predicted cells cannot be read ({error})')
        return {}
    thresholds = [run.evaluation.get('thresholds', {}).get(name) or 0 for name in run.classes]
    return {pair.image_id: pair.confident(thresholds) for pair in pairs}
