"""What can be checked before any work is done."""
import errno
import hashlib
import re
import shutil
import tempfile
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner.checkpoint import get_torchvision_models

from cellseg_mm.datasets.cell_dataset import check_classes, read_annotations
from cellseg_mm.engine.checkpoint import read_checkpoint
from cellseg_mm.engine.config import dataset_config
from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.io.files import atomic_path
from cellseg_mm.models.backbones.timm_backbone import efficientnet_lite0_path

DOWNLOAD_TIMEOUT = 20.0
_LOCAL_PARTS = dict(LoadAnnotations='LoadCellAnnotations', FCNMaskHead='CellMaskHead',
                    MaxIoUAssigner='LocalMaxIoUAssigner', DetLocalVisualizer='CellVisualizer')


def check_data(config, splits):
    """Check that the annotations of the splits are there and have the config's classes.

    Args:
        config (Config): A config from `load_config`.
        splits (Sequence[str]): Of `train`, `val` and `test`.

    Raises:
        UserError: If not.
    """
    root = Path(config.data_root)
    if not root.is_dir():
        raise UserError(f'{root}: there is no such folder; set data_root in configs/_base_/cells.py or add '
                        '--cfg-options data_root=FOLDER')
    for split in splits:
        path = root / dataset_config(config, split).ann_file
        annotations = read_annotations(path)
        check_classes(path, annotations['categories'], config.classes)
        if not annotations['images']:
            raise CellDataError(path, 'there is no image in it',
                                f'add images, then run: python tools/prepare_data.py {root}')
        if split == 'train' and not annotations['annotations']:
            raise CellDataError(path, f'there is no cell in its {len(annotations["images"])} images',
                                f'add label maps, then run: python tools/prepare_data.py {root}')


def canvas_parts(node):
    """Parts of MMDetection's in a config that take memory and time by cells x pixels, and ours that do not.

    Args:
        node (Config | dict | list): A config from `load_config`, or a part of it.

    Returns:
        dict[str, str]: The `type` to use, by the one that is used.
    """
    found = {}
    for child in _children(node):
        found |= canvas_parts(child)
    if isinstance(node, dict) and isinstance(node.get('type'), str):
        name = node['type'].removeprefix('mmdet.')
        ours = _LOCAL_PARTS.get(name, f'Cell{name}')
        if name in _LOCAL_PARTS or ours in MODELS.module_dict:
            found[name] = ours
    return found


def check_work_dir(work_dir, needed_bytes=0):
    """Check that the folder can be made, written to, and holds what a training writes.

    Args:
        work_dir (str | Path): The folder; made if missing.
        needed_bytes (int): How much will be written.

    Raises:
        UserError: If not.
    """
    try:
        Path(work_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=work_dir) as probe:
            probe.write(b'0')
    except OSError as error:
        reason = 'the disk is full' if error.errno == errno.ENOSPC else error.strerror
        raise UserError(f'{work_dir}: cannot write there: {reason}; name another folder with --work-dir') from error
    free = shutil.disk_usage(work_dir).free
    if free < needed_bytes:
        raise UserError(f'{work_dir}: {free / 1e6:.0f} MB free, checkpoints need {needed_bytes / 1e6:.0f} MB; free '
                        'some space or name another folder with --work-dir')


def fetch_pretrained(config):
    """See to it that every pretrained file that the model names is on this machine and safe to load.

    Args:
        config (Config): A config from `load_config`.

    Raises:
        UserError: If a file is missing and cannot be downloaded: which one, and where to put it. If a file would run
            code when loaded.
    """
    for node in _with_init_cfg(config.model):
        if node['type'] == 'EfficientNetLite0':
            efficientnet_lite0_path()
        elif node['type'] == 'Pretrained':
            read_checkpoint(_fetch(node['checkpoint']))


def drop_pretrained(model):
    """Take the pretrained weights out of a model's config, for a run whose own weights replace them.

    Args:
        model (ConfigDict): Changed in place.
    """
    for child in _children(model):
        drop_pretrained(child)
    if isinstance(model, dict) and model.get('init_cfg'):
        kept = [one for one in _listed(model['init_cfg']) if one['type'] not in ('EfficientNetLite0', 'Pretrained')]
        model['init_cfg'] = kept or None


def _with_init_cfg(node):
    """Yield every initialisation in a config, at any depth."""
    if isinstance(node, dict):
        yield from _listed(node.get('init_cfg'))
    for child in _children(node):
        yield from _with_init_cfg(child)


def _children(node):
    if isinstance(node, (dict, Config)):
        return node.values()
    return node if isinstance(node, (list, tuple)) else ()


def _listed(init_cfg):
    return init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg] if init_cfg else []


def _fetch(checkpoint):
    url = checkpoint
    if url.startswith('torchvision://'):
        models = get_torchvision_models()
        name = url.removeprefix('torchvision://')
        if name not in models:
            raise UserError(f'{checkpoint}: torchvision has no weights of that name')
        url = models[name]
    if '://' not in url:
        if not Path(url).is_file():
            raise UserError(f'{url}: the pretrained weights are missing; put the file there, or set init_cfg=None')
        return url
    target = Path(torch.hub.get_dir(), 'checkpoints', url.rsplit('/', 1)[-1])
    if target.is_file():
        return target
    try:
        _download(url, target)
    except (OSError, HTTPException) as error:
        raise UserError(
            f'{url}: the pretrained weights could not be downloaded ({getattr(error, "reason", error)}); put that file '
            f'at {target}, or train configs/cell_maskrcnn_lite.py, whose weights come with pip') from error
    return target


def _download(url, target):
    with (urlopen(url, timeout=DOWNLOAD_TIMEOUT) as response,  # noqa: S310 -- a config's address, file:// too
          atomic_path(target) as partial):
        with partial.open('wb') as file:
            shutil.copyfileobj(response, file)
        length = response.headers.get('Content-Length')
        if length is not None and partial.stat().st_size != int(length):
            raise OSError('the connection broke off')
        # Names such as resnet50-0676ba61.pth hold the beginning of the file's SHA-256.
        digest = re.search(r'-([0-9a-f]{8,})\.', target.name)
        if digest and not hashlib.sha256(partial.read_bytes()).hexdigest().startswith(digest[1]):
            raise OSError('what came is not that file')
