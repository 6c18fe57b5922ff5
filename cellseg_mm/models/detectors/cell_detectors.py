"""MMDetection's instance segmentation models with predictions that stay local, and fast on CPUs.

Each model `Name` of MMDetection that predicts instance masks is registered as `CellName`, such as `CellMaskRCNN`.
"""
import math
from typing import NamedTuple

import numpy as np
import torch
from mmdet.models import detectors
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch.nn.functional import pad

from cellseg_mm.errors import UserError
from cellseg_mm.structures.local_masks import LocalMasks, as_local_masks
from cellseg_mm.structures.merging import merge
from cellseg_mm.structures.tiling import Tile, Tiling

_NAMES = ('BoxInst', 'CascadeRCNN', 'CondInst', 'HybridTaskCascade', 'Mask2Former', 'MaskFormer', 'MaskRCNN',
          'MaskScoringRCNN', 'PointRend', 'QueryInst', 'RTMDet', 'SCNet', 'SOLO', 'SOLOv2', 'YOLACT')
_TILES_AT_ONCE = 4  # as many pixels as in a batch of crops
_MERGED = 2  # times as many predictions are merged as are left, since tiles show many cells twice


class Tiles(NamedTuple):
    """The squares that a detector sees.

    Args:
        size (int): Pixels of the network's input along each side, a multiple of 32.
        overlap (int): Pixels that neighbours share, at the least: the length of the largest cells.
        max_per_tile (int): How many cells are looked for in one; `load_config` carries it to the limits of the heads.
        max_per_img (int): How many predictions are left of an image, those of the highest scores.
    """

    size: int
    overlap: int
    max_per_tile: int
    max_per_img: int


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
    only understand images of the size that they learn from. With `tiles` they see nothing but squares of one size:
    inputs are cut into overlapping ones, padded where the image is smaller; losses are those of the squares, and
    predictions are merged by `cellseg_mm.structures.merging`, their boxes being those of the masks.

    Args:
        *args: Of the detector.
        cpu_bf16 (bool | str): Compute features in bfloat16; `auto`: where `has_fast_bf16`.
        tiles (dict, optional): Of `Tiles`.
        **kwargs: Of the detector.

    Raises:
        UserError: If tiles are of no multiple of 32 pixels, or their overlap is not smaller than they are.
    """

    def __init__(self, *args, cpu_bf16='auto', tiles=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.cpu_bf16 = has_fast_bf16() if cpu_bf16 == 'auto' else cpu_bf16
        self.tiles = tiles and Tiles(**tiles)
        if self.tiles:
            Tiling(1, 1, self.tiles.size, self.tiles.overlap)
            if self.tiles.size % 32:
                raise UserError(f'tiles of {self.tiles.size} pixels are no multiple of 32, as features need it')

    def extract_feat(self, batch_inputs):
        if self.training or batch_inputs.device.type != 'cpu' or torch.is_autocast_enabled('cpu'):
            return super().extract_feat(batch_inputs)
        batch_inputs = batch_inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast('cpu', torch.bfloat16, enabled=self.cpu_bf16):
            features = super().extract_feat(batch_inputs)
        return tuple(feature.float() for feature in features)

    def loss(self, batch_inputs, batch_data_samples):
        if not self.tiles:
            return super().loss(batch_inputs, batch_data_samples)
        inputs, samples, size = [], [], self.tiles.size
        for image, sample in zip(batch_inputs, batch_data_samples, strict=True):
            for place in Tiling(*sample.img_shape[:2], *self.tiles[:2]).tiles:
                inputs.append(_square(image, place, size))
                samples.append(_sample_of(sample, place, size))
        return super().loss(torch.stack(inputs), samples)

    def predict(self, batch_inputs, batch_data_samples, rescale=True):
        if not self.tiles:
            return super().predict(batch_inputs, batch_data_samples, rescale)
        for image, sample in zip(batch_inputs, batch_data_samples, strict=True):
            meta = sample.metainfo if rescale else dict(sample.metainfo, ori_shape=sample.img_shape)
            sample.pred_instances = self._predict_in_tiles(image, meta)
        return batch_data_samples

    def _predict_in_tiles(self, image, meta):
        """Instances of an input, (3, H, W), on a canvas of its `ori_shape`."""
        size, most = self.tiles.size, self.tiles.max_per_img
        (height, width), original = meta['img_shape'][:2], meta['ori_shape'][:2]
        factors = width / original[1], height / original[0]
        # Quotients of whole numbers may fall short of one.
        tiling = Tiling(*original, max(int(size / max(factors) + 1e-6), 1), int(self.tiles.overlap / max(factors)))
        places = _places(tiling, factors, (width, height), size)
        found = []
        for first in range(0, len(places), _TILES_AT_ONCE):
            some = slice(first, first + _TILES_AT_ONCE)
            samples = [_square_sample(meta, place, size, ori_shape=(tile.height, tile.width), scale_factor=(
                place.width / tile.width, place.height / tile.height))
                for tile, place in zip(tiling.tiles[some], places[some], strict=True)]
            squares = torch.stack([_square(image, place, size) for place in places[some]])
            for sample in super().predict(squares, samples):
                instances = sample.pred_instances
                found.append((instances.masks, instances.scores.detach().float(), instances.labels))
            found = _surest(found, _MERGED * most)
        masks, scores, labels = zip(*found, strict=True)
        scores, labels = torch.cat(scores), torch.cat(labels)
        # A network may end a mask where its features do, 4 pixels of the input before the border.
        masks, kept = merge(tiling, masks, scores.cpu().numpy(), math.ceil(4 / min(factors)))
        kept = torch.from_numpy(kept).to(scores.device)
        order = scores[kept].argsort(descending=True, stable=True)[:most]
        masks, kept = masks[order], kept[order]
        return InstanceData(masks=masks, scores=scores[kept], labels=labels[kept],
                            bboxes=masks.get_bboxes('hbox').tensor.to(scores.device))

    def add_pred_to_datasample(self, data_samples, results_list):
        data_samples = super().add_pred_to_datasample(data_samples, results_list)
        for sample in data_samples:
            predicted = sample.get('pred_instances', {})
            if 'masks' in predicted and not isinstance(predicted.masks, LocalMasks):
                predicted.masks = LocalMasks.from_bitmaps(predicted.masks)
        return data_samples


def _places(tiling, factors, shape, size):
    """Where tiles of an image lie in an input of `shape` (width, height) that shows it enlarged by two factors."""
    tile = tiling.tiles[0]  # all are of one size, and so are their places, whatever is rounded
    w, h = (min(round(side * factor), size, whole)
            for side, factor, whole in zip((tile.width, tile.height), factors, shape, strict=True))
    return [Tile(min(round(tile.x * factors[0]), shape[0] - w), min(round(tile.y * factors[1]), shape[1] - h), w, h)
            for tile in tiling.tiles]


def _square(image, place, size):
    """The part of an input, (3, H, W), at a place, padded with zeros as batches are: (3, size, size)."""
    x, y, w, h = place
    return pad(image[:, y:y + h, x:x + w], (0, size - w, 0, size - h))


def _square_sample(meta, place, size, **more):
    return DetDataSample(metainfo=dict(meta, img_shape=(place.height, place.width), pad_shape=(size, size),
                                       batch_input_shape=(size, size), **more))


def _sample_of(sample, place, size):
    """The sample of a square: the true cells of which it shows a pixel."""
    part = _square_sample(sample.metainfo, place, size)
    corners = np.array([place.x, place.y, place.x + place.width, place.y + place.height])
    for key in ('gt_instances', 'ignored_instances'):
        cells = sample.get(key)
        if cells is not None and 'masks' in cells:
            masks = as_local_masks(cells.masks, *sample.batch_input_shape).crop(corners).pad((size, size))
            shown = masks.areas > 0
            labels = cells.labels[torch.from_numpy(shown).to(cells.labels.device)]
            part.set_field(InstanceData(masks=masks[shown], labels=labels, bboxes=masks[shown].get_bboxes(
                'hbox').tensor.to(labels.device)), key, InstanceData)
    return part


def _surest(found, most):
    """Of the masks, scores and labels of several tiles the `most` of the highest scores."""
    scores = torch.cat([scores for _, scores, _ in found])
    if len(scores) <= most:
        return found
    least = scores.topk(most).values[-1]
    return [tuple(values[scores >= least] for values in (masks, scores, labels)) for masks, scores, labels in found]


def _register(name):
    detector = getattr(detectors, name)
    cls = type(detector)(f'Cell{name}', (CellDetector, detector), {
        '__module__': __name__, '__doc__': f'`{name}` as a `CellDetector`.'})
    globals()[cls.__name__] = MODELS.register_module()(cls)


for _name in _NAMES:
    _register(_name)
