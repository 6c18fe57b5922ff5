"""What can be checked before any work is done."""
import errno
import shutil
import tempfile
from pathlib import Path

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner.checkpoint import get_external_models, get_mmcls_models, get_torchvision_models

from cellseg_mm.datasets.cell_dataset import check_classes, read_annotations
from cellseg_mm.engine.checkpoint import read_checkpoint
from cellseg_mm.engine.config import dataset_config
from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.models.backbones.timm_backbone import efficientnet_lite0_path, pretrained_path
from cellseg_mm.models.backbones.timm_weights import fetch, read_weights

_LOCAL_PARTS = dict(LoadAnnotations='LoadCellAnnotations', FCNMaskHead='CellMaskHead',
                    MaxIoUAssigner='LocalMaxIoUAssigner', DetLocalVisualizer='CellVisualizer')
_MODEL_LISTS = {
    'torchvision': ('torchvision', get_torchvision_models),
    'open-mmlab': ('OpenMMLab', get_external_models),
    'openmmlab': ('OpenMMLab', get_external_models),
    'mmcls': ('MMPretrain', get_mmcls_models),
}
_PRETRAINED = ('EfficientNetLite0', 'Pretrained', 'Timm')  # the kinds of init_cfg that read files


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
    for node, init_cfg in _initialised(config.model):
        if init_cfg['type'] == 'EfficientNetLite0':
            efficientnet_lite0_path()
        elif init_cfg['type'] == 'Timm' or (init_cfg['type'] == 'Pretrained' and node.get('type') == 'TimmBackbone'):
            read_weights(pretrained_path(init_cfg, node['model_name']))
        elif init_cfg['type'] == 'Pretrained':
            read_checkpoint(_fetch(init_cfg['checkpoint']))


def drop_pretrained(model):
    """Take the pretrained weights out of a model's config, for a run whose own weights replace them.

    Args:
        model (ConfigDict): Changed in place.
    """
    for child in _children(model):
        drop_pretrained(child)
    if isinstance(model, dict) and model.get('init_cfg'):
        kept = [one for one in _listed(model['init_cfg']) if one['type'] not in _PRETRAINED]
        model['init_cfg'] = kept or None


def _initialised(node):
    """Yield every part of a config that has an initialisation, at any depth, and the initialisation."""
    if isinstance(node, dict):
        for init_cfg in _listed(node.get('init_cfg')):
            yield node, init_cfg
    for child in _children(node):
        yield from _initialised(child)


def _children(node):
    if isinstance(node, (dict, Config)):
        return node.values()
    return node if isinstance(node, (list, tuple)) else ()


def _listed(init_cfg):
    return init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg] if init_cfg else []


def _fetch(checkpoint):
    scheme, _, name = checkpoint.partition('://')
    if not name:
        if not Path(checkpoint).is_file():
            raise UserError(f'{checkpoint}: the pretrained weights are missing; put the file there, or set '
                            'init_cfg=None')
        return checkpoint
    if scheme not in _MODEL_LISTS:
        return fetch(checkpoint)
    owner, models = _MODEL_LISTS[scheme]
    if name not in models():
        raise UserError(f'{checkpoint}: {owner} has no weights of that name')
    return fetch(models()[name])
