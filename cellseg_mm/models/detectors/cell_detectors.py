"""MMDetection's instance segmentation models with predictions that stay local, and fast on CPUs.

Each model `Name` of MMDetection that predicts instance masks is registered as `CellName`, such as `CellMaskRCNN`.
"""
import numpy as np
import torch
from mmdet.models import detectors
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch.nn.functional import pad

from cellseg_mm.structures.cells import Cells
from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.structures.merging import merge
from cellseg_mm.structures.tiling import Tiling

_NAMES = ('BoxInst', 'CascadeRCNN', 'CondInst', 'HybridTaskCascade', 'Mask2Former', 'MaskFormer', 'MaskRCNN',
          'MaskScoringRCNN', 'PointRend', 'QueryInst', 'RTMDet', 'SCNet', 'SOLO', 'SOLOv2', 'YOLACT')
_TILES_AT_ONCE = 4


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

    Models that tell cells from each other by where they lie in the image, as those with queries or with SOLO's grids,
    only understand images of the size that they were trained on. `tiles` has them see no other: predictions are made in
    squares, padded where the image is smaller, and merged by `cellseg_mm.structures.merging`; boxes are then those of
    the masks.

    Args:
        *args: Of the detector.
        cpu_bf16 (bool | str): Compute features in bfloat16; `auto`: where `has_fast_bf16`.
        tiles (dict, optional): `size` and `overlap` of the squares, in pixels of the network's input, and
            `max_per_img`, how many predictions of the highest scores are left of an image.
        **kwargs: Of the detector.
    """

    def __init__(self, *args, cpu_bf16='auto', tiles=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.cpu_bf16 = has_fast_bf16() if cpu_bf16 == 'auto' else cpu_bf16
        self.tiles = tiles

    def extract_feat(self, batch_inputs):
        if self.training or batch_inputs.device.type != 'cpu' or torch.is_autocast_enabled('cpu'):
            return super().extract_feat(batch_inputs)
        batch_inputs = batch_inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast('cpu', torch.bfloat16, enabled=self.cpu_bf16):
            features = super().extract_feat(batch_inputs)
        return tuple(feature.float() for feature in features)

    def predict(self, batch_inputs, batch_data_samples, rescale=True):
        if self.tiles is None:
            return super().predict(batch_inputs, batch_data_samples, rescale)
        for inputs, sample in zip(batch_inputs, batch_data_samples, strict=True):
            sample.pred_instances = self._predict_in_tiles(inputs, sample.metainfo, rescale)
        return batch_data_samples

    def _predict_in_tiles(self, inputs, meta, rescale):
        """Instances of an image, (3, H, W), of `rescale` its original size."""
        size, (height, width) = self.tiles['size'], meta['img_shape'][:2]
        rows, columns = meta['ori_shape'][:2] if rescale else (height, width)
        factor = max(height / rows, width / columns)
        tiling = Tiling(rows, columns, max(int(size / factor), 1), int(self.tiles['overlap'] / factor))
        windows = []
        for x, y, w, h in tiling.tiles:
            # All of one size, whatever is rounded.
            seen_width, seen_height = (min(round(side * factor), size) for side, factor in (
                (w, width / columns), (h, height / rows)))
            left = min(round(x * width / columns), width - seen_width)
            top = min(round(y * height / rows), height - seen_height)
            part = inputs[:, top:top + seen_height, left:left + seen_width]
            sample = DetDataSample(metainfo=dict(
                meta, ori_shape=(h, w), img_shape=(seen_height, seen_width), batch_input_shape=(size, size),
                scale_factor=(seen_width / w, seen_height / h), pad_shape=(size, size)))
            windows.append((pad(part, (0, size - seen_width, 0, size - seen_height)), sample))
        parts = []
        for first in range(0, len(windows), _TILES_AT_ONCE):
            tiles, samples = zip(*windows[first:first + _TILES_AT_ONCE], strict=True)
            for sample in super().predict(torch.stack(tiles), list(samples)):
                found = sample.pred_instances
                parts.append(Cells(found.masks, *(
                    values.detach().cpu().numpy() for values in (found.labels, found.scores.float()))))
        cells = merge(tiling, parts)
        cells = cells[np.argsort(-cells.scores, kind='stable')[:self.tiles['max_per_img']]]
        return InstanceData(
            bboxes=cells.masks.get_bboxes('hbox').tensor.to(inputs.device), masks=cells.masks,
            labels=torch.from_numpy(cells.labels).to(inputs.device),
            scores=torch.from_numpy(cells.scores).to(inputs.device))

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
