"""Pretrained weights of timm's models: where they are, on what terms, for which colours, and whether they fit."""
import re
import sys
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from huggingface_hub import hf_hub_url, try_to_load_from_cache
from timm.models import get_pretrained_cfg, load_state_dict, model_entrypoint

from cellseg_mm.errors import UserError
from cellseg_mm.io.download import download


class WeightsMatch(NamedTuple):
    """How the weights of a file fit a model.

    Attributes:
        loaded (dict[str, Tensor]): The tensors that fit, by the model's names.
        missing (list[str]): The model's tensors that the file lacks.
        unexpected (list[str]): The file's tensors that belong to no part of the model, nor to its classifier.
        mismatched (list[str]): The model's tensors that have another shape in the file.
    """
    loaded: dict
    missing: list
    unexpected: list
    mismatched: list

    def __str__(self):
        wanted = len(self.loaded) + len(self.missing) + len(self.mismatched)
        parts = [f'{len(self.loaded)} of {wanted} tensors loaded']
        for text, names in (('missing', self.missing), ('of another shape', self.mismatched),
                            ('left over', self.unexpected)):
            if names:
                parts.append(f'{len(names)} {text}, such as {names[0]}')
        return '; '.join(parts)


def canonical(name):
    """Name a tensor alike in timm's full model and in its feature extractors.

    These put the model under `model.` or `body.`, or flatten `stages.0` to `stages_0`.
    """
    return name.removeprefix('model.').removeprefix('body.').replace('.', '_')


@cache
def full_model(model_name):
    """Build timm's whole classifier without memory for its tensors, for its names, shapes and grouping of layers."""
    with torch.device('meta'):
        return timm.create_model(model_name)


def pretrained_config(model_name):
    """Return timm's facts about a model's weights.

    Args:
        model_name (str): timm's name, such as `convnext_tiny` or, of a certain training, `convnext_tiny.fb_in1k`.

    Returns:
        timm.models.PretrainedCfg: Of the default training where the name says none.

    Raises:
        UserError: If timm has no such model.
    """
    try:
        config = get_pretrained_cfg(model_name)
    except RuntimeError as error:  # no such training
        raise UserError(f'backbone {model_name}: {error} timm.list_pretrained() names those there are') from error
    if config is None:
        raise UserError(f'backbone {model_name}: timm has no such model; timm.list_models() names those there are')
    return config


def normalisation(model_name):
    """Return the colours that a model was pretrained on.

    Args:
        model_name (str): timm's name.

    Returns:
        tuple[list[float], list[float]]: Mean and standard deviation of red, green and blue, on a scale of 0 to 255,
            as `data_preprocessor` takes them.
    """
    config = pretrained_config(model_name)
    return [round(255 * value, 3) for value in config.mean], [round(255 * value, 3) for value in config.std]


def normalisation_mismatch(model_name, preprocessor, tolerance=1.0):
    """Say how a data preprocessor differs from the colours that a model was pretrained on.

    Args:
        model_name (str): timm's name.
        preprocessor (dict): `model.data_preprocessor` of a config.
        tolerance (float): Differences up to this, on a scale of 0 to 255, are rounding.

    Returns:
        str | None: One line with the remedy; None where they agree.
    """
    wanted = normalisation(model_name)
    given = preprocessor.get('mean'), preprocessor.get('std')
    remedy = f'data_preprocessor=dict(mean={wanted[0]}, std={wanted[1]}, bgr_to_rgb=True)'
    for name, one, other in zip(('mean', 'std'), given, wanted, strict=True):
        if one is None or len(one) != 3 or any(abs(a - b) > tolerance for a, b in zip(one, other, strict=True)):
            return f'data_preprocessor.{name} is {one}, {model_name} was pretrained with {other}; set {remedy}'
    grey = len(set(wanted[0])) == len(set(wanted[1])) == 1  # then weights alone know the order of the colours
    if preprocessor.get('bgr_to_rgb') or (grey and 'bgr_to_rgb' not in preprocessor):
        return None
    return f'data_preprocessor.bgr_to_rgb is off, {model_name} was pretrained on RGB; set {remedy}'


def weights_licence(model_name):
    """Return the licence of a model's weights as timm names it, such as `mit`; `unknown` where it names none."""
    return pretrained_config(model_name).license or 'unknown'


def weights_file(model_name):
    """Return the file of a model's pretrained weights, downloading it where it is not on this machine.

    Args:
        model_name (str): timm's name.

    Returns:
        Path: The file.

    Raises:
        UserError: If there are no such weights, or they cannot be downloaded: which file to put where.
    """
    path, url = weights_location(model_name)
    return fetch(url, path)


def weights_location(model_name):
    """Say where a model's pretrained weights are, or will be, on this machine, and where they come from.

    They are looked for in PyTorch's folder of checkpoints, then in the cache of huggingface_hub.

    Args:
        model_name (str): timm's name.

    Returns:
        tuple[Path, str]: The file and its address.

    Raises:
        UserError: If timm has no such model, or no weights for it.
    """
    config = pretrained_config(model_name)
    if config.hf_hub_id:
        repository, _, revision = config.hf_hub_id.partition('@')
        name = config.hf_hub_filename or 'model.safetensors'
        target = _folder() / f'{config.architecture}.{config.tag}{Path(name).suffix}'
        cached = try_to_load_from_cache(repository, name, revision=revision or None)
        path = Path(cached) if isinstance(cached, str) and not target.is_file() else target
        return path, hf_hub_url(repository, name, revision=revision or None)
    if config.url:
        return address_location(config.url), config.url
    raise UserError(f'backbone {model_name}: timm has no pretrained weights for it; set init_cfg=None, or '
                    "init_cfg=dict(type='Pretrained', checkpoint=FILE)")


def address_location(url):
    """Return the file in PyTorch's folder of checkpoints that a download from an address is kept in."""
    return _folder() / url.rsplit('/', 1)[-1]


def _folder():
    return Path(torch.hub.get_dir(), 'checkpoints')


def fetch(url, target):
    """Return the file at an address, downloading it where it is not on this machine.

    Args:
        url (str): The address.
        target (Path): Where it goes.

    Returns:
        Path: `target`.

    Raises:
        UserError: If it cannot be downloaded: which file to put where.
    """
    if not target.is_file():
        try:
            download(url, target)
        except (OSError, HTTPException) as error:
            raise UserError(
                f'{url}: the pretrained weights could not be downloaded ({getattr(error, "reason", error)}); put that '
                f'file at {target}, or train configs/cell_maskrcnn_lite.py, whose weights come with pip') from error
    return target


def read_weights(path, prefix=''):
    """Read the tensors of a file in timm's form, running none of the code that such a file can hold.

    Args:
        path (str | Path): `.safetensors`, or PyTorch's form with or without `state_dict`, `model` and the like around
            the tensors; averaged weights (`model_ema`) are taken where there are some.
        prefix (str): Take the tensors under this name alone, such as `backbone` out of a detector.

    Returns:
        dict[str, Tensor]: On the CPU.

    Raises:
        UserError: If the file is missing, is no such file, or needs code to be run.
    """
    if not Path(path).is_file():
        raise UserError(f'{path}: the pretrained weights are missing; put the file there, or set init_cfg=None')
    try:
        weights = load_state_dict(str(path))
        start = f'{prefix.rstrip(".")}.' if prefix else ''
        return {name.removeprefix(start): value for name, value in weights.items()
                if isinstance(value, torch.Tensor) and name.startswith(start)}
    except Exception as error:  # a damaged file can fail anywhere
        blocked = re.search(r'GLOBAL (\S+)', str(error.__cause__))
        if blocked:
            raise UserError(f'{path}: refused, since loading it would run code ({blocked[1]})') from error
        raise UserError(f'{path}: these are not weights, or a damaged file of them') from error


def match_weights(model, model_name, weights):
    """Hold weights against a feature extractor of timm's.

    Args:
        model (nn.Module): `timm.create_model(model_name, features_only=True)`.
        model_name (str): timm's name.
        weights (dict[str, Tensor]): As `read_weights` returns them; named by timm, or by the model's authors where timm
            can translate.

    Returns:
        WeightsMatch: What fits.
    """
    match = _match(model, model_name, weights)
    module = sys.modules[model_entrypoint(model_name.split('.')[0]).__module__]
    translate = getattr(module, 'checkpoint_filter_fn', None)
    if translate is None or not (match.missing or match.mismatched):
        return match
    try:
        translated = _match(model, model_name, translate(dict(weights), full_model(model_name)))
    except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError):  # weights of another model
        return match
    return max(match, translated, key=lambda one: len(one.loaded))


def _match(model, model_name, weights):
    known = {canonical(name) for name in full_model(model_name).state_dict()}
    found = {canonical(name): value for name, value in weights.items()}
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    here = {name: found[canonical(name)] for name in wanted if canonical(name) in found}
    return WeightsMatch(
        loaded={name: value for name, value in here.items() if value.shape == wanted[name]},
        missing=[name for name in wanted if name not in here],
        unexpected=[name for name in weights if canonical(name) not in known],
        mismatched=[name for name, value in here.items() if value.shape != wanted[name]])
