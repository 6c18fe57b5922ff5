"""Training, from a config to checkpoints and curves."""
import re
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper

from cellseg_mm.engine.checkpoint import check_checkpoint_classes, check_weights, read_checkpoint
from cellseg_mm.engine.distributed import prepare_distributed
from cellseg_mm.engine.preflight import check_data, check_work_dir, fetch_pretrained
from cellseg_mm.engine.runner import CellRunner
from cellseg_mm.errors import UserError
from cellseg_mm.visualization.curves import plot_curves


def train(config, work_dir, resume=None, amp=False, auto_scale_lr=False, launcher='none'):
    """Train a model as its config says.

    Args:
        config (Config): A config from `load_config`.
        work_dir (str | Path): Where checkpoints, logs and `curves.png` go.
        resume (str | Path | None): `auto` for the last epoch in `work_dir`, if there is one, or a checkpoint.
        amp (bool): Train in mixed precision: float16 on GPUs, bfloat16 on CPUs.
        auto_scale_lr (bool): Scale the learning rate with the batch size.
        launcher (str): `none`, or how the processes of a distributed run were started.

    Returns:
        Path: The best epoch's checkpoint, or the last one's where no validation took place.

    Raises:
        UserError: Before any work is done, for all that the user can mend.
    """
    work_dir = Path(work_dir)
    check_data(config, ('train', 'val'))
    check_work_dir(work_dir)
    last = last_checkpoint(work_dir)
    resume_from = last if resume == 'auto' else resume
    if resume is None and last is not None:
        raise UserError(f'{work_dir}: there is a training in it already; add --resume to go on with it, or name '
                        'another folder with --work-dir')
    checkpoint = read_checkpoint(resume_from) if resume_from else None
    if config.get('load_from'):
        read_checkpoint(config.load_from)
    if checkpoint is None:
        fetch_pretrained(config)

    config.work_dir = str(work_dir)
    config.resume = resume_from is not None
    config.load_from = str(resume_from) if resume_from else config.get('load_from')
    if amp:
        _use_amp(config)
    if auto_scale_lr:
        config.auto_scale_lr.enable = True
    prepare_distributed(config, launcher)
    runner = CellRunner.from_cfg(config)
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if checkpoint is not None:
        check_weights(model, checkpoint, resume_from)
        check_checkpoint_classes(checkpoint, config.classes, resume_from)
        del checkpoint
    check_work_dir(work_dir, needed_bytes=_checkpoint_bytes(model))
    runner.train()
    if is_main_process():
        plot_curves(work_dir, work_dir / 'curves.png')
    return best_checkpoint(work_dir) or last_checkpoint(work_dir)


def last_checkpoint(work_dir):
    """Return the path of the last epoch's checkpoint in `work_dir`, or None."""
    return _newest(work_dir, 'epoch')


def best_checkpoint(work_dir):
    """Return the path of the best epoch's checkpoint in `work_dir`, or None."""
    return _newest(work_dir, 'best_epoch')


def _newest(work_dir, prefix):
    epochs = {int(match[1]): path for path in Path(work_dir).glob(f'{prefix}_*.pth')
              if (match := re.fullmatch(rf'{prefix}_(\d+)\.pth', path.name))}
    return epochs[max(epochs)] if epochs else None


def _use_amp(config):
    if torch.cuda.is_available():
        config.optim_wrapper.type = 'AmpOptimWrapper'
        config.optim_wrapper.loss_scale = 'dynamic'
    else:
        config.optim_wrapper.type = 'CPUAmpOptimWrapper'


def _checkpoint_bytes(model):
    # Weights and two optimizer moments, for the last epoch's file and the one being written; weights for two best ones.
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return 8 * weights
