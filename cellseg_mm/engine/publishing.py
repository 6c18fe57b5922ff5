"""Trained models as small files to hand on."""
import shutil

import torch
from mmengine.config import Config

from cellseg_mm.engine.preflight import drop_pretrained
from cellseg_mm.errors import UserError
from cellseg_mm.inference.detector import prediction_steps
from cellseg_mm.io.files import atomic_path
from cellseg_mm.io.work_dir import thresholds_path
from cellseg_mm.models.checkpoint import read_checkpoint
from cellseg_mm.models.embedded_config import embedded_config

_KEPT = 'custom_imports', 'default_scope', 'classes', 'max_dets', 'model'


def publish(source, target):
    """Write the part of a checkpoint that predicts: weights of half precision, and what of its config they need.

    Left out are the optimizer, the log, and all settings of the training, which name folders of the machine it ran on.
    The thresholds beside the checkpoint are copied with it.

    Args:
        source (str | Path): A checkpoint of `tools/train.py`.
        target (Path): The file to write.

    Raises:
        UserError: If the source is damaged, is not to be trusted or does not hold its config; if a weight is beyond
            what half precision holds, or the target exists.
    """
    if target.exists():
        raise UserError(f'{target}: it exists already; name another file')
    checkpoint = read_checkpoint(source)
    config = embedded_config(checkpoint, source)
    pipeline = prediction_steps(config, source)
    settings = {name: config[name] for name in _KEPT if name in config}
    drop_pretrained(config.model)
    state = {name: _half(tensor, name, source) for name, tensor in checkpoint['state_dict'].items()}
    meta = checkpoint['meta']
    text = Config(settings | dict(test_dataloader=dict(dataset=dict(pipeline=pipeline)))).pretty_text
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as partial:
        torch.save(dict(state_dict=state, meta=dict(
            cfg=text, dataset_meta=meta.get('dataset_meta'), epoch=meta.get('epoch'), iter=meta.get('iter'))), partial)
    if thresholds_path(source).is_file():
        shutil.copyfile(thresholds_path(source), thresholds_path(target))


def _half(tensor, name, path):
    if not tensor.is_floating_point():
        return tensor.clone()
    half = tensor.half().contiguous()
    if not torch.isfinite(half).all():
        raise UserError(f'{path}: {name} is not finite in half precision: it holds values up to '
                        f'{float(tensor.abs().max()):g}')
    return half
