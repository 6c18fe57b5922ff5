"""Whether every part of a config has a class, and whether the parts fit each other: types that no registry has."""
from copy import deepcopy
from difflib import get_close_matches

import mmcv.ops
import mmdet.registry
import mmengine.registry
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.registry import Registry

from cellseg_mm.engine.config_checks.finding import error
from cellseg_mm.engine.config_checks.subject import listed, parts_of
from cellseg_mm.errors import one_line

_SIDE = 256  # pixels of an image that backbones of all kinds take
_TIMM_WEIGHTS = 'EfficientNetLite0', 'Timm'  # TimmBackbone's own


def check(subject):
    """Yield findings."""
    unknown = list(_unknown(subject.config))
    yield from unknown
    if unknown:
        return
    if subject.model is None:
        yield error('model', f'cannot be built, {one_line(subject.build_error)}', 'correct that setting')
    else:
        yield from _channels(subject)


def _unknown(config):
    register_all_modules(init_default_scope=False)
    known = set()
    for module in (mmengine.registry, mmdet.registry):
        for registry in vars(module).values():
            if isinstance(registry, Registry):
                known.update(registry.module_dict)
    for place, node in parts_of(config):
        name = str(node.get('type', '')).removeprefix('mmdet.').removeprefix('mmengine.')
        # Words in lower case are read by parts themselves, such as nms; other packages have registries of their own.
        if not name[:1].isupper() or name in known or hasattr(mmcv.ops, name) or '.' in name or (
                name in _TIMM_WEIGHTS and place.endswith('.init_cfg')):
            continue
        close = get_close_matches(name, known, 1, 0.7)
        yield error(f'{place}.type', f'is {name}, and no registry has it', f'did you mean {close[0]}?'
                    if close else 'name its module in custom_imports')


def _channels(subject):
    """Hold the neck against the maps that the backbone gives."""
    neck = next((one for one in listed(subject.config.model.get('neck')) if 'in_channels' in one), None)
    if neck is None or getattr(subject.model, 'backbone', None) is None:
        return
    given = _map_channels(subject)
    wanted = neck['in_channels']
    if given and given != (wanted if isinstance(wanted, int) else list(wanted)) and given != [wanted]:
        yield error('model.neck.in_channels', f'is {wanted}, and the backbone gives maps of {given} channels',
                    f'set in_channels={given}')


def _map_channels(subject):
    """Channels of the backbone's maps: list[int], or None where it cannot be run."""
    backbone = subject.model.backbone
    device = next(backbone.parameters()).device
    try:
        with torch.no_grad():
            return [int(one.shape[1]) for one in backbone(torch.zeros(1, 3, _SIDE, _SIDE, device=device))]
    except Exception:  # an operation that needs numbers: for once with them
        if device.type != 'meta':
            return None
    try:
        with torch.no_grad():
            return [int(one.shape[1]) for one in MODELS.build(deepcopy(subject.config.model.backbone))(
                torch.zeros(1, 3, _SIDE, _SIDE))]
    except Exception:  # no backbone of images
        return None
