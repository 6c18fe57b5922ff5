"""Mixed precision, on the CPU too."""
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


def use_amp(config):
    """Let a config train in mixed precision: float16 on a GPU, bfloat16 on a CPU.

    Args:
        config (Config): Changed in place.
    """
    if torch.cuda.is_available():
        config.optim_wrapper.type = 'AmpOptimWrapper'
        config.optim_wrapper.loss_scale = 'dynamic'
    else:
        config.optim_wrapper.type = 'CPUAmpOptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):  # of an AmpOptimWrapper
            config.optim_wrapper.pop(key, None)


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Runs the forward pass under bfloat16 autocast. MMEngine's `AmpOptimWrapper` refuses the CPU.

    bfloat16 has float32's range, so that losses need no scaling.
    """

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def keep_depthwise_float32(model):
    """Let depthwise convolutions of large kernels, or with strides, compute in float32 under autocast on a CPU.

    oneDNN has no fast gradients of them in bfloat16: those of a 5 x 5 kernel took five to six times as long as in
    float32.

    Args:
        model (nn.Module): Its convolutions are changed in place.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels and (
                max(module.kernel_size) > 3 or max(module.stride) > 1) and not isinstance(module, _Float32):
            kind = type(module)  # timm has kinds of its own, which pad as TensorFlow does
            module.__class__ = type(kind.__name__, (_Float32, kind), {})


class _Float32:

    def forward(self, maps):
        with torch.autocast('cpu', enabled=False):
            return super().forward(maps.float())
