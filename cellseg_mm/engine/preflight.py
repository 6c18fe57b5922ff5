"""What can be checked before any work is done."""
import errno
import shutil
import tempfile
from pathlib import Path

from mmdet.registry import MODELS
from mmengine.runner.checkpoint import get_external_models, get_mmcls_models, get_torchvision_models

from cellseg_mm.datasets.cell_dataset import check_classes, read_annotations
from cellseg_mm.engine.config import dataset_config
from cellseg_mm.engine.config_checks.subject import dicts, listed, parts_of
from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.models.backbones.timm_backbone import efficientnet_lite0_path
from cellseg_mm.models.backbones.timm_weights import address_location, fetch, read_weights, weights_location
from cellseg_mm.models.checkpoint import read_checkpoint

_LOCAL_PARTS = dict(LoadAnnotations='LoadCellAnnotations', FCNMaskHead='CellMaskHead',
                    MaxIoUAssigner='LocalMaxIoUAssigner', DynamicSoftLabelAssigner='LocalSoftLabelAssigner',
                    DetLocalVisualizer='CellVisualizer')
_MODEL_LISTS = {
    'torchvision': ('torchvision', get_torchvision_models),
    'open-mmlab': ('OpenMMLab', get_external_models),
    'openmmlab': ('OpenMMLab', get_external_models),
    'mmcls': ('MMPretrain', get_mmcls_models),
}
PRETRAINED = 'EfficientNetLite0', 'Pretrained', 'Timm'  # the kinds of init_cfg that read files


def check_data(config, splits):
    """Check that the annotations of the splits are there and have the config's classes.

    Args:
        config (Config): A config from `load_config`.
        splits (Iterable[str]): Of `train`, `val` and `test`.

    Returns:
        dict[str, dict]: By split, what `read_annotations` read.

    Raises:
        UserError: If not.
    """
    root = Path(config.data_root)
    if not root.is_dir():
        raise UserError(f'{root}: there is no such folder; set data_root in configs/_base_/cells.py or add '
                        '--cfg-options data_root=FOLDER')
    found = {}
    for split in splits:
        path = root / dataset_config(config, split).ann_file
        annotations = found[split] = read_annotations(path)
        check_classes(path, annotations['categories'], config.classes)
        if not annotations['images']:
            raise CellDataError(path, 'there is no image in it',
                                f'add images, then run: python tools/prepare_data.py {root}')
        if split == 'train' and not annotations['annotations']:
            raise CellDataError(path, f'there is no cell in its {len(annotations["images"])} images',
                                f'add label maps, then run: python tools/prepare_data.py {root}')
    return found


def canvas_parts(config):
    """Parts of MMDetection's in a config that take memory and time by cells x pixels, and ours that do not.

    Args:
        config (Config): A config from `load_config`.

    Returns:
        dict[str, tuple[str, str]]: The `type` that is used and the one to use, by the dotted key of the part.
    """
    found = {}
    for place, node in parts_of(config):
        name = str(node.get('type')).removeprefix('mmdet.')
        ours = _LOCAL_PARTS.get(name, f'Cell{name}')
        if name in _LOCAL_PARTS or ours in MODELS.module_dict:
            found[place] = name, ours
    return found


def check_work_dir(work_dir, needed_bytes=0, option='--work-dir'):
    """Check that the folder can be made, written to, and holds what a training writes.

    Args:
        work_dir (str | Path): The folder; made if missing.
        needed_bytes (int): How much will be written.
        option (str): What a user names it by.

    Raises:
        UserError: If not.
    """
    try:
        Path(work_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=work_dir) as probe:
            probe.write(b'0')
    except OSError as error:
        reason = 'the disk is full' if error.errno == errno.ENOSPC else error.strerror
        raise UserError(f'{work_dir}: cannot write there: {reason}; name another folder with {option}') from error
    free = shutil.disk_usage(work_dir).free
    if free < needed_bytes:
        raise UserError(f'{work_dir}: {free / 1e6:.0f} MB free, checkpoints need {needed_bytes / 1e6:.0f} MB; free '
                        f'some space or name another folder with {option}')


def fetch_pretrained(config):
    """See to it that every pretrained file that the model names is on this machine and safe to load.

    Args:
        config (Config): A config from `load_config`.

    Raises:
        UserError: If a file is missing and cannot be downloaded: which one, and where to put it. If a file would run
            code when loaded.
    """
    for _, node, init_cfg in pretrained_parts(config.model):
        path, url = pretrained_location(node, init_cfg)
        if url:
            fetch(url, path)
        elif not path.is_file():
            raise UserError(f'{path}: the pretrained weights are missing; put the file there, or set init_cfg=None')
        if node.get('type') == 'TimmBackbone':
            read_weights(path)
        else:
            read_checkpoint(path)


def pretrained_parts(model):
    """Yield the dotted key of each part of a model that starts from a file, the part, and its `init_cfg`.

    Args:
        model (dict): The model's config.
    """
    for place, node in dicts(model, 'model'):
        for init_cfg in listed(node.get('init_cfg')):
            if init_cfg['type'] in PRETRAINED:
                yield place, node, init_cfg


def pretrained_location(node, init_cfg):
    """Say where a part's pretrained weights are, or will be, on this machine, and where they come from.

    Args:
        node (dict): The part's config.
        init_cfg (dict): Its initialisation, of a kind in `PRETRAINED`.

    Returns:
        tuple[Path, str | None]: The file, and its address if it has one.

    Raises:
        UserError: If there are no such weights.
    """
    if init_cfg['type'] == 'EfficientNetLite0':
        return Path(efficientnet_lite0_path()), None
    if init_cfg['type'] == 'Timm':
        return weights_location(node['model_name'])
    checkpoint = str(init_cfg['checkpoint'])
    scheme, _, name = checkpoint.partition('://')
    if not name:
        return Path(checkpoint), None
    if scheme in _MODEL_LISTS and node.get('type') != 'TimmBackbone':
        owner, models = _MODEL_LISTS[scheme]
        if name not in models():
            raise UserError(f'{checkpoint}: {owner} has no weights of that name')
        checkpoint = models()[name]
    return address_location(checkpoint), checkpoint


def drop_pretrained(model):
    """Take the pretrained weights out of a model's config, for a run whose own weights replace them.

    Args:
        model (ConfigDict): Changed in place.
    """
    for _, node in list(dicts(model, 'model')):
        if node.get('init_cfg'):
            node['init_cfg'] = [one for one in listed(node['init_cfg']) if one['type'] not in PRETRAINED] or None
