"""Whether pretrained weights are there, fit the model, and were trained on images normalised as these are."""
import re

import torch
from mmengine.model import BaseModule

from cellseg_mm.engine.config_checks.finding import Finding, error, note, warning
from cellseg_mm.engine.preflight import pretrained_location, pretrained_parts
from cellseg_mm.errors import UserError
from cellseg_mm.models.backbones.timm_backbone import TimmBackbone, efficientnet_lite0_weights
from cellseg_mm.models.backbones.timm_weights import (
    WeightsMatch,
    match_weights,
    normalisation_mismatch,
    read_weights,
    weights_licence,
)
from cellseg_mm.models.checkpoint import read_checkpoint

_MOST = 0.9  # share of the tensors that a file should have
# Not pretrained where it is there: counts of batches, and what deformable convolutions add.
_OWN = re.compile(r'num_batches_tracked$|conv_offset')
_CLASSIFIER = re.compile(r'^(fc|head|classifier)\b')
# Licences that allow every use; what others allow is for their reader to judge.
_PERMISSIVE = 'apache-2.0', 'bsd-3-clause', 'cc-by-4.0', 'mit'
# Mean, standard deviation and whether they are of RGB, by how MMDetection's names of weights begin.
_IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), True
_NORMALISATIONS = {'torchvision://': _IMAGENET, 'open-mmlab://res': _IMAGENET,
                   'open-mmlab://detectron2/resnet': ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), False)}


def check(subject):
    """Yield findings."""
    for place, node, init in pretrained_parts(subject.config.model):
        yield from _weights(subject.model, place, node, init)
        if init['type'] == 'Timm':
            yield from _licence(f'{place}.init_cfg', node['model_name'])
        if place == 'model.backbone':
            yield from _normalisation(subject.config.model, node, init)


def _licence(place, model_name):
    licence = weights_licence(model_name)
    if licence not in _PERMISSIVE:
        # What a name says for certain: cc-by-nc-4.0, fair-noncommercial-research-license.
        restricted = ', for non-commercial use alone' if re.search('-nc-|noncommercial', licence) else ''
        yield note(place, f'names weights of the licence {licence}{restricted}', 'read its terms before they are used')


def _weights(model, place, node, init):
    module, place = _module(model, place), f'{place}.init_cfg'
    try:
        path, url = pretrained_location(node, init)
    except UserError as caught:
        yield error(place, f'cannot be used, {caught}')
        return
    if not path.is_file():
        if url:
            yield note(place, f'names {url}, which is not on this machine', 'a training downloads it; without network, '
                       f'put that file at {path}')
        else:
            yield error(place, f'names {path}, and there is no such file', 'put it there, or set init_cfg=None')
        return
    try:
        match = _match(module, init, path)
    except UserError as caught:
        yield error(place, f'cannot be used, {caught}')
        return
    if match is None:
        return
    lost = [name for name in match.missing + match.mismatched if not _OWN.search(name)]
    fits = sum(not _OWN.search(name) for name in match.loaded)
    wanted = fits + len(lost)
    name = path.name
    if not fits:
        yield error(place, f'does not fit: none of the {wanted} tensors is in {name}', 'name weights of this '
                    'model')
    elif lost and (isinstance(module, TimmBackbone) or match.mismatched or len(lost) > (1 - _MOST) * wanted):
        level = 'error' if isinstance(module, TimmBackbone) else 'warning'
        yield Finding(level, place, f'fits {fits} of {wanted} tensors; {name} lacks {len(lost)}, such as '
                      f'{lost[0]}', 'name weights of this model')
    else:
        yield note(place, f'fits: {fits} of {wanted} tensors are in {name}')


def _module(model, place):
    name = re.sub(r'\[(\d+)\]', r'.\1', place).removeprefix('model').removeprefix('.')
    try:
        return model and model.get_submodule(name)
    except AttributeError:  # a part that is made of several
        return None


def _match(module, init, path):
    """How the file fits: WeightsMatch, or None for a part that is not built, or that loads it in a way of its own."""
    prefix = init.get('prefix') or ''
    if isinstance(module, TimmBackbone):
        if init['type'] == 'EfficientNetLite0':
            return WeightsMatch(efficientnet_lite0_weights(module.model), [], [], [])
        return match_weights(module.model, module.model_name, read_weights(path, prefix))
    if module is None or type(module).init_weights is not BaseModule.init_weights:
        return None
    prefix = f'{prefix.removesuffix(".")}.' if prefix else ''
    found = {name.removeprefix('module.').removeprefix(prefix): value
             for name, value in read_checkpoint(path)['state_dict'].items()
             if name.removeprefix('module.').startswith(prefix) and isinstance(value, torch.Tensor)}
    wanted = module.state_dict()
    return WeightsMatch(
        {name: found[name] for name in wanted if name in found and found[name].shape == wanted[name].shape},
        [name for name in wanted if name not in found],
        [name for name in found if name not in wanted and not _CLASSIFIER.search(name)],
        [name for name in wanted if name in found and found[name].shape != wanted[name].shape])


def _normalisation(model, backbone, init):
    given = model.get('data_preprocessor') or {}
    place = 'model.data_preprocessor'
    if backbone.get('type') == 'TimmBackbone':
        line = normalisation_mismatch(backbone['model_name'], given)
        if line:
            problem, _, remedy = line.partition('; ')
            yield warning(place, f'differs from what the backbone was pretrained on, {problem}', remedy)
        return
    for start, (mean, std, rgb) in _NORMALISATIONS.items():
        if str(init.get('checkpoint')).startswith(start):
            same = all(len(one or ()) == 3 and all(abs(a - b) <= 1 for a, b in zip(one, other, strict=True))
                       for one, other in ((given.get('mean'), mean), (given.get('std'), std)))
            if not same or bool(given.get('bgr_to_rgb')) != rgb:
                yield warning(place, f'has mean {given.get("mean")} and std {given.get("std")}, and the backbone '
                              f'was pretrained with {list(mean)} and {list(std)} of {"RGB" if rgb else "BGR"}',
                              f'set mean={list(mean)}, std={list(std)}, bgr_to_rgb={rgb}')
            return
