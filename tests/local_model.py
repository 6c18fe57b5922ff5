"""A model whose view is narrow: what it finds depends on some 70 pixels around."""
from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

CLASSES = 'round', 'long'


def local_config(factor=1.0, score_thr=0.7, classes=CLASSES):
    """Mask R-CNN on the first stage of a small ResNet, seeing nothing coarser than 4 pixels."""
    config = Config.fromfile(Path(__file__).parents[1] / 'configs/cell_maskrcnn.py')
    model, roi_head = config.model, config.model.roi_head
    model.data_preprocessor.pad_size_divisor = 8
    model.backbone = dict(type='ResNet', depth=18, num_stages=1, out_indices=(0, ), strides=(1, ), dilations=(1, ))
    model.neck = dict(type='FPN', in_channels=[64], out_channels=16, num_outs=1)
    model.rpn_head.update(in_channels=16, feat_channels=16)
    model.rpn_head.anchor_generator.update(strides=[4], scales=[5], ratios=[1.0])
    for extractor in (roi_head.bbox_roi_extractor, roi_head.mask_roi_extractor):
        extractor.update(out_channels=16, featmap_strides=[4])
    roi_head.bbox_head.update(in_channels=16, fc_out_channels=32, num_classes=len(classes))
    roi_head.mask_head.update(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=len(classes))
    model.test_cfg.rpn.update(nms_pre=100_000, max_per_img=100_000)
    model.test_cfg.rcnn.update(max_per_img=100_000, score_thr=score_thr)
    return Config(dict(
        custom_imports=dict(imports=['cellseg_mm.register']), classes=classes, model=model,
        test_dataloader=dict(dataset=dict(pipeline=[
            dict(type='LoadTiffImage'), dict(type='Resize', scale_factor=factor, keep_ratio=True)]))))


def write_checkpoint(path, seed=0, classes=CLASSES, **changes):
    """Weights at random, of scores from 0.5 to 1, in a file as training leaves it."""
    import cellseg_mm.register  # noqa: F401
    config = local_config(classes=classes, **changes)
    torch.manual_seed(seed)
    model = MODELS.build(config.model)
    for name, weights in model.state_dict().items():
        if name.endswith('fc_cls.weight'):
            weights.normal_(0, 0.8)
        elif name.endswith('conv_logits.weight'):
            weights.normal_(0, 0.5)
    meta = dict(classes=classes, mpp=0.5, image_size=[300.0, 300.0])
    torch.save(dict(state_dict=model.state_dict(), meta=dict(cfg=config.pretty_text, dataset_meta=meta)), path)
    return path


def discs(height=300, width=400, spacing=52, seed=0):
    """An image of discs that lie apart, in the colour that networks take for nothing."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), (104, 116, 124), np.uint8)
    for y in range(30, height - 10, spacing):
        for x in range(30, width - 10, spacing):
            center = (x + int(rng.integers(-8, 8)), y + int(rng.integers(-8, 8)))
            cv2.circle(image, center, int(rng.integers(6, 11)), rng.integers(0, 256, 3).tolist(), -1)
    return image
