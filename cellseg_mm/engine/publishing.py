"""Trained models as small files to hand on."""
import io
from copy import deepcopy
from pathlib import Path

import torch
from mmengine.config import Config

from cellseg_mm.engine.preflight import drop_pretrained
from cellseg_mm.errors import UserError
from cellseg_mm.evaluation.operating_point import read_thresholds, write_thresholds
from cellseg_mm.inference.detector import Detector, prediction_steps
from cellseg_mm.io.files import atomic_path
from cellseg_mm.io.work_dir import all_thresholds
from cellseg_mm.models.checkpoint import read_checkpoint
from cellseg_mm.models.embedded_config import embedded_config

# All that predictions depend on.
_SETTINGS = 'custom_imports', 'default_scope', 'classes', 'max_dets', 'model'
_STEPS = {'LoadTiffImage': ('percentiles', ), 'Resize': ('scale', 'scale_factor', 'keep_ratio')}
_META = 'classes', 'CLASSES', 'mpp', 'image_size'


def publish(source, target, config=None, trusted=False):
    """Write what of a checkpoint predicts: weights of half precision, what they need of its config, and its thresholds.

    Left out are the optimizer, the log, and all settings of the training, which name folders of the machine it ran on.
    Weights beyond what half precision holds stay in single precision.

    Args:
        source (str | Path): A checkpoint of `tools/train.py`, or any of MMDetection's.
        target (Path): The file to write.
        config (Config, optional): Of the model, for a checkpoint without its own.
        trusted (bool): Whether code in the checkpoint may run.

    Raises:
        UserError: If `Detector` cannot predict by the source, a weight is not finite, a file to be written exists, or
            the config is one that `Detector` would not trust within a checkpoint.
    """
    for path in (target, *all_thresholds(target)):
        if path.exists():
            raise UserError(f'{path}: it exists already; name another file')
    classes = Detector(source, config, 'cpu', trusted).classes  # which finds all that is wrong
    thresholds = {path.name.removeprefix(Path(source).stem): read_thresholds(path, classes)
                  for path in all_thresholds(source)}
    checkpoint = read_checkpoint(source, trusted)
    if config is None:
        config = embedded_config(checkpoint, source, trusted)
    settings = deepcopy({name: config[name] for name in _SETTINGS if name in config})
    drop_pretrained(settings['model'])
    settings['test_dataloader'] = dict(dataset=dict(pipeline=[
        {key: step[key] for key in ('type', *_STEPS[kind]) if key in step}
        for step in prediction_steps(config, source) if (kind := str(step['type']).removeprefix('mmdet.')) in _STEPS]))
    meta, dataset_meta = checkpoint.get('meta', {}), checkpoint.get('meta', {}).get('dataset_meta') or {}
    content = dict(
        state_dict={name: _half(tensor, name, source) for name, tensor in checkpoint['state_dict'].items()},
        meta=dict(
            cfg=Config(settings).pretty_text, epoch=meta.get('epoch'), iter=meta.get('iter'),
            dataset_meta={name: dataset_meta[name] for name in _META if name in dataset_meta}))
    embedded_config(content, target, trusted)  # what a config of its own may do, one within a checkpoint may not
    buffer = io.BytesIO()  # the name of a file would be part of the content
    torch.save(content, buffer)
    beside = {target.with_name(target.stem + suffix): of_views for suffix, of_views in thresholds.items()}
    try:
        with atomic_path(target) as partial:
            partial.write_bytes(buffer.getvalue())
            for path, of_views in beside.items():
                write_thresholds(path, of_views)
    except BaseException:
        for path in beside:
            path.unlink(missing_ok=True)
        raise


def _half(tensor, name, path):
    if not tensor.is_floating_point():
        return tensor.clone()
    if not torch.isfinite(tensor).all():
        raise UserError(f'{path}: {name} is not finite: the training went astray; take an earlier checkpoint')
    half = tensor.half()
    return (half if torch.isfinite(half).all() else tensor).clone(memory_format=torch.contiguous_format)
