"""What can be checked before any work is done."""
import errno
import os
import shutil
import tempfile
from pathlib import Path
from urllib.error import URLError

from cellseg_mm.datasets.cell_dataset import check_classes, read_annotations
from cellseg_mm.engine.config import dataset_config
from cellseg_mm.errors import CellDataError, UserError

DOWNLOAD_TIMEOUT = 20.0


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
    """See to it that every pretrained file that the model names is on this machine.

    Args:
        config (Config): A config from `load_config`.

    Raises:
        UserError: If a file is missing and cannot be downloaded: which one, and where to put it.
    """
    for checkpoint in _pretrained_checkpoints(config.model):
        _fetch(checkpoint)


def _pretrained_checkpoints(node):
    if isinstance(node, dict):
        init_cfg = node.get('init_cfg')
        if isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained':
            yield init_cfg['checkpoint']
        if isinstance(init_cfg, dict) and init_cfg.get('type') == 'EfficientNetLite0':
            from cellseg_mm.models.backbones.timm_backbone import efficientnet_lite0_path
            efficientnet_lite0_path()
        for value in node.values():
            yield from _pretrained_checkpoints(value)
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from _pretrained_checkpoints(item)


def _fetch(checkpoint):
    import torch
    from mmengine.runner.checkpoint import get_torchvision_models
    url = checkpoint
    if url.startswith('torchvision://'):
        url = get_torchvision_models()[url.removeprefix('torchvision://')]
    if '://' not in url:
        if not Path(url).is_file():
            raise UserError(f'{url}: the pretrained weights are missing; put the file there, or set init_cfg=None')
        return
    target = Path(torch.hub.get_dir(), 'checkpoints', os.path.basename(url))  # noqa: PTH119 -- of a URL
    if target.is_file():
        return
    try:
        _download(url, target)
    except (URLError, OSError) as error:
        raise UserError(
            f'{url}: the pretrained weights could not be downloaded ({getattr(error, "reason", error)}); put that file '
            f'at {target}, or train configs/cell_maskrcnn_lite.py, whose weights come with pip') from error


def _download(url, target):
    from urllib.request import urlopen

    from cellseg_mm.io.files import atomic_path
    with (urlopen(url, timeout=DOWNLOAD_TIMEOUT) as response,  # noqa: S310 -- a config's address, file:// too
          atomic_path(target) as partial, partial.open('wb') as file):
        shutil.copyfileobj(response, file)
