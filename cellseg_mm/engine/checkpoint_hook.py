"""Checkpoints that survive a kill at any moment and resume to the same weights."""
from pathlib import Path

from mmengine.dist import all_gather_object, get_rank, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from cellseg_mm.engine.seeding import random_state, set_random_state
from cellseg_mm.evaluation.cell_metric import CellMetric
from cellseg_mm.io.files import atomic_path
from cellseg_mm.io.work_dir import best_path, files_beside, results_path
from cellseg_mm.models.checkpoint import message_hub_to_plain, plain_to_message_hub

_LATEST_RESULTS = '.val-results-latest.json'


@HOOKS.register_module()
class EpochCheckpointHook(Hook):
    """Keep the last epoch, to resume from, and the best one, to use.

    MMEngine's hook writes a file before the epoch's validation, in place, after deleting the one before it, and without
    the random state. This one writes `epoch_<n>.pth` once epoch n is over with its validation and schedulers, beside
    its final name, and only then deletes the one before. Files load with `torch.load(..., weights_only=True)`.

    Args:
        save_best (str): The validation metric to maximise. `best_epoch_<n>.pth` holds the weights alone; beside it,
            `best_epoch_<n>.results.json` has what that epoch predicted on the validation images, as COCO results, where
            a `CellMetric` without a `results_file` of its own validates. With `EMAHook` they are the averaged ones,
            which are validated.
    """

    # Before every other hook, so that the state written is the one between two epochs.
    priority = 'HIGHEST'

    def __init__(self, save_best):
        self.save_best = save_best
        self._start_epoch = 0
        self._resumed_state = None

    def before_train(self, runner):
        self._start_epoch = runner.epoch
        if is_main_process():
            for partial in Path(runner.work_dir).glob('.*.partial.*'):  # of a run killed while it wrote
                partial.unlink()
        if runner.val_loop is not None:
            for metric in runner.val_evaluator.metrics:
                if isinstance(metric, CellMetric) and metric.results_file is None:
                    metric.results_file = Path(runner.work_dir, _LATEST_RESULTS)

    def before_train_epoch(self, runner):
        if runner.epoch > self._start_epoch:
            self._save_epoch(runner)
        elif self._resumed_state is not None:
            set_random_state(self._resumed_state)
            self._resumed_state = None

    def after_train(self, runner):
        if runner.epoch > self._start_epoch:
            self._save_epoch(runner)

    def after_val_epoch(self, runner, metrics=None):
        info = runner.message_hub
        score = metrics[self.save_best]
        is_best = score > info.runtime_info.get('best_score', -1.0)  # NaN, without any ground truth, is no best
        if is_best:
            info.update_info('best_score', float(score))
            info.update_info('best_epoch', runner.epoch)
        results = Path(runner.work_dir, _LATEST_RESULTS)
        if not is_main_process():
            return
        if is_best:
            best = best_path(runner.work_dir, runner.epoch)
            self._save(runner, best, random_states=None)
            if results.exists():
                results.replace(results_path(best))
        results.unlink(missing_ok=True)

    def before_save_checkpoint(self, runner, checkpoint):  # noqa: ARG002 -- MMEngine's signature
        if self._random_states is None:
            del checkpoint['message_hub']
        else:
            checkpoint['message_hub'] = message_hub_to_plain(checkpoint['message_hub'])
            checkpoint['random_states'] = self._random_states

    def after_load_checkpoint(self, runner, checkpoint):
        if 'message_hub' in checkpoint:
            checkpoint['message_hub'] = plain_to_message_hub(checkpoint['message_hub'])
        states = checkpoint.get('random_states', [])
        if runner.cfg.get('resume') and get_rank() < len(states):
            self._resumed_state = states[get_rank()]

    def _save_epoch(self, runner):
        states = all_gather_object(random_state())
        if not is_main_process():
            return
        work_dir = Path(runner.work_dir)
        latest = work_dir / f'epoch_{runner.epoch}.pth'
        self._save(runner, latest, states)
        best = best_path(work_dir, runner.message_hub.runtime_info.get('best_epoch'))
        for path in [*work_dir.glob('epoch_*.pth'), *work_dir.glob('best_epoch_*.pth')]:
            if path not in (latest, best):
                for file in [*files_beside(path), path]:
                    file.unlink(missing_ok=True)

    def _save(self, runner, path, random_states):
        resumable = random_states is not None
        self._random_states, hooks = random_states, runner._hooks
        if not resumable:
            # While validated, the model has its averaged weights: EMAHook would exchange them once more.
            runner._hooks = [self]
        try:
            with atomic_path(path) as partial:
                runner.save_checkpoint(
                    str(partial.parent), partial.name, save_optimizer=resumable, save_param_scheduler=resumable,
                    meta=dict(epoch=runner.epoch, iter=runner.iter), by_epoch=True)
        finally:
            runner._hooks = hooks
            del self._random_states
