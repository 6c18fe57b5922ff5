"""Training, from a config to checkpoints and curves."""
import shutil
import traceback
from importlib.util import find_spec
from pathlib import Path

from mmengine.dist import barrier, is_main_process
from mmengine.hooks import EMAHook
from mmengine.model import is_model_wrapper

from cellseg_mm.engine.amp import use_amp
from cellseg_mm.engine.assessment import conclude_training
from cellseg_mm.engine.config_check import check_config, check_pretrained, warnings_of
from cellseg_mm.engine.config_checks.subject import listed
from cellseg_mm.engine.distributed import prepare_distributed
from cellseg_mm.engine.preflight import check_data, check_work_dir, drop_pretrained, fetch_pretrained
from cellseg_mm.engine.run_record import RunRecordHook, data_record
from cellseg_mm.engine.runner import CellRunner
from cellseg_mm.errors import UserError
from cellseg_mm.io.files import atomic_path
from cellseg_mm.io.work_dir import best_checkpoint, best_path, epoch_files, files_beside, last_checkpoint
from cellseg_mm.models.checkpoint import (
    check_checkpoint_classes,
    check_resumable,
    check_weights,
    read_checkpoint,
    starting_weights,
)
from cellseg_mm.visualization.curves import plot_curves


def train(config, work_dir, resume=None, amp=False, auto_scale_lr=False, launcher='none', tensorboard=False):
    """Train a model as its config says.

    Args:
        config (Config): A config from `load_config`.
        work_dir (str | Path): Where checkpoints, logs, `curves.png`, `run.json`, `report.html` and what
            `conclude_training` writes go.
        resume (str | Path | None): `auto` for the last epoch in `work_dir`, if there is one, or a checkpoint.
        amp (bool): Train in mixed precision: float16 on GPUs, bfloat16 on CPUs.
        auto_scale_lr (bool): Scale the learning rate with the batch size.
        launcher (str): `none`, or how the processes of a distributed run were started.
        tensorboard (bool): Write the curves to event files of TensorBoard too, beside the logs.

    Returns:
        Path: The best epoch's checkpoint, or the last one's where no validation took place.

    Raises:
        UserError: Before any work is done, for all that the user can mend.
    """
    work_dir = Path(work_dir)
    if tensorboard:
        _use_tensorboard(config)
    annotations = check_data(config, ('train', 'val'))
    check_work_dir(work_dir)
    resume_from = last_checkpoint(work_dir) if resume == 'auto' else resume
    elsewhere = resume_from is None or Path(resume_from).parent.resolve() != work_dir.resolve()
    # A training killed in its first epoch may have left its best checkpoint alone, which --resume begins anew.
    if elsewhere and resume != 'auto' and any(epoch_files(work_dir)):
        raise UserError(f'{work_dir}: there is a training in it already; add --resume to go on with it, or name '
                        'another folder with --work-dir')
    start_from = resume_from or config.get('load_from')
    checkpoint = read_checkpoint(start_from) if start_from else None
    if resume_from:
        check_resumable(checkpoint, resume_from)
        check_checkpoint_classes(checkpoint, config.classes, resume_from)
        _check_schedule(config, checkpoint, resume_from)
        drop_pretrained(config.model)
    if amp:
        use_amp(config)
    if auto_scale_lr:
        config.auto_scale_lr.enable = True
    found = warnings_of(config, check_config(config, annotations))
    if not resume_from:
        fetch_pretrained(config)
        found += warnings_of(config, check_pretrained(config))

    config.work_dir = str(work_dir)
    config.resume = resume_from is not None
    config.load_from = str(start_from) if start_from else None
    prepare_distributed(config, launcher)
    runner = CellRunner.from_cfg(config)
    runner.register_hook(RunRecordHook(data_record(config, annotations)))
    del annotations
    for warning in dict.fromkeys(found):
        runner.logger.warning(f'config: {warning}')  # noqa: G004 -- MMEngine leaves out messages that it has seen
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if resume_from:
        check_weights(model, checkpoint, resume_from)
        _bring_best(checkpoint, Path(resume_from).parent, work_dir)
    elif start_from:
        runner.logger.info('%d of %d tensors taken from %s', len(starting_weights(model, checkpoint, start_from)),
                           len(model.state_dict()), start_from)
    del checkpoint
    averaged = any(isinstance(hook, EMAHook) for hook in runner.hooks)
    check_work_dir(work_dir, needed_bytes=_checkpoint_bytes(model, averaged))
    runner.dump_config()
    runner.train()
    if is_main_process():
        _conclude(config, work_dir, runner.logger)
    barrier()  # the main process writes the last checkpoint and the report
    return best_checkpoint(work_dir) or last_checkpoint(work_dir)


def _conclude(config, work_dir, logger):
    """Draw and report, which can be done again: a training of days has not failed where that fails."""
    try:
        plot_curves(work_dir, work_dir / 'curves.png')
        conclude_training(config, work_dir)
    except Exception as error:  # of whatever kind: the weights are there
        reason = ' '.join(f'{type(error).__name__}: {error}'.split())
        logger.warning('the training is done, but not its report (%s); write it by: python tools/report.py %s', reason,
                       work_dir)
        logger.info('%s', traceback.format_exc())  # several lines, which the console leaves out


def _bring_best(checkpoint, source_dir, work_dir):
    """Copy the best epoch so far along where a run is resumed in another folder."""
    best = best_path(source_dir, checkpoint['message_hub']['runtime_info'].get('best_epoch'))
    for path in (*files_beside(best), best):
        if is_main_process() and path.is_file() and not (work_dir / path.name).exists():
            with atomic_path(work_dir / path.name) as partial:
                shutil.copyfile(path, partial)


def _check_schedule(config, checkpoint, path):
    planned = checkpoint['message_hub']['runtime_info'].get('max_epochs')
    # A plateau has no end, and a warm-up has one of its own and leaves the full rate; other schedules are restored as
    # they were planned, and would stay at their last rate.
    if planned is None or all(
            scheduler.type == 'ReduceOnPlateauLR' or (
                scheduler.type == 'LinearLR' and 'end' in scheduler and scheduler.get('end_factor', 1) == 1)
            for scheduler in listed(config.get('param_scheduler'))):
        return
    if planned != config.train_cfg.max_epochs:
        raise UserError(
            f'{path}: its learning rate was planned for {planned} epochs, not {config.train_cfg.max_epochs}; resume '
            f'with --cfg-options train_cfg.max_epochs={planned}, or start a new training from its weights with '
            '--cfg-options load_from=FILE')


def _use_tensorboard(config):
    if find_spec('tensorboard') is None:
        raise UserError('--tensorboard needs a package that is not installed: pip install tensorboard')
    config.visualizer.vis_backends = [*config.visualizer.get('vis_backends', []), dict(type='TensorboardVisBackend')]


def _checkpoint_bytes(model, averaged):
    # Weights, their average and two optimizer moments, for the last epoch's file and the one being written; weights for
    # two best ones.
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return (10 if averaged else 8) * weights
