"""MMDetection's instance segmentation models with predictions that stay local, and fast on CPUs.

Each model `Name` of MMDetection that predicts instance masks is registered as `CellName`, such as `CellMaskRCNN`.
"""
import torch
from mmdet.models import detectors
from mmdet.registry import MODELS

from cellseg_mm.structures.local_masks import LocalMasks

_NAMES = ('BoxInst', 'CascadeRCNN', 'CondInst', 'HybridTaskCascade', 'Mask2Former', 'MaskFormer', 'MaskRCNN',
          'MaskScoringRCNN', 'PointRend', 'QueryInst', 'RTMDet', 'SCNet', 'SOLO', 'SOLOv2', 'YOLACT')


def has_fast_bf16():
    """Whether this processor multiplies bfloat16 faster than float32.

    AMX does. AVX512-BF16 alone does not: without AMX, Intel's cores are slower by it (`benchmarks/cpu_inference.py`).
    """
    return torch.cpu.get_capabilities().get('amx_bf16', False)


class CellDetector:
    """Mixin for MMDetection's detectors: predicted masks are `LocalMasks`; prediction on CPUs is faster.

    On a CPU, features are computed in the channels-last memory format while predicting, and in bfloat16 where
    `cpu_bf16` says so; they are handed on in float32, for proposals in bfloat16 cost AP50. Weights stay as they are.
    Nothing changes while training, on other devices and under an autocast of the caller's.

    Args:
        *args: Of the detector.
        cpu_bf16 (bool | str): Compute features in bfloat16; `auto`: where `has_fast_bf16`.
        **kwargs: Of the detector.
    """

    def __init__(self, *args, cpu_bf16='auto', **kwargs):
        super().__init__(*args, **kwargs)
        self.cpu_bf16 = has_fast_bf16() if cpu_bf16 == 'auto' else cpu_bf16

    def extract_feat(self, batch_inputs):
        if self.training or batch_inputs.device.type != 'cpu' or torch.is_autocast_enabled('cpu'):
            return super().extract_feat(batch_inputs)
        batch_inputs = batch_inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast('cpu', torch.bfloat16, enabled=self.cpu_bf16):
            features = super().extract_feat(batch_inputs)
        return tuple(feature.float() for feature in features)

    def add_pred_to_datasample(self, data_samples, results_list):
        data_samples = super().add_pred_to_datasample(data_samples, results_list)
        for sample in data_samples:
            predicted = sample.get('pred_instances', {})
            if 'masks' in predicted and not isinstance(predicted.masks, LocalMasks):
                predicted.masks = LocalMasks.from_bitmaps(predicted.masks)
        return data_samples


def _register(name):
    detector = getattr(detectors, name)
    cls = type(detector)(f'Cell{name}', (CellDetector, detector), {
        '__module__': __name__, '__doc__': f'`{name}` as a `CellDetector`.'})
    globals()[cls.__name__] = MODELS.register_module()(cls)


for _name in _NAMES:
    _register(_name)
