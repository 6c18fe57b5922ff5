from copy import deepcopy

import numpy as np
import pytest
import torch
from conftest import TINY_CONFIG
from mmengine.config import Config

import cellseg_mm.register  # noqa: F401
from cellseg_mm.datasets.synthetic import make_cells_image
from cellseg_mm.engine.config import load_config
from cellseg_mm.structures.local_masks import LocalMasks

from mmdet.registry import MODELS  # isort: skip (after cellseg_mm)
from mmdet.structures import DetDataSample  # isort: skip (after cellseg_mm)
from mmdet.structures.bbox import HorizontalBoxes  # isort: skip (after cellseg_mm)
from mmdet.structures.mask import BitmapMasks  # isort: skip (after cellseg_mm)
from mmdet.utils import register_all_modules  # isort: skip (after cellseg_mm)
from mmengine.structures import InstanceData  # isort: skip (after cellseg_mm)


def tiny_mask_rcnn():
    model = load_config(TINY_CONFIG).model
    model.rpn_head.anchor_generator.scales = [2]  # more cells find an anchor
    return model


def tiny_cascade_mask_rcnn():
    tiny, base = tiny_mask_rcnn(), 'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py'
    model = Config.fromstring(f'_base_ = {base!r}', '.py').model
    model.data_preprocessor, model.backbone, model.neck = tiny.data_preprocessor, tiny.backbone, tiny.neck
    model.rpn_head.update(in_channels=16, feat_channels=16, anchor_generator=tiny.rpn_head.anchor_generator)
    for head in model.roi_head.bbox_head:
        head.update(in_channels=16, fc_out_channels=32, num_classes=4)
    model.roi_head.bbox_roi_extractor.out_channels = model.roi_head.mask_roi_extractor.out_channels = 16
    model.roi_head.mask_head = tiny.roi_head.mask_head
    return model


def batch(local):
    """An image with 100 cells and a smaller one without."""
    inputs, samples = [], []
    for height, width, counts in ((330, 350, {'class1': 50, 'class2': 50}), (130, 190, {})):
        image, maps = make_cells_image(np.random.default_rng(0), height, width, counts)
        masks = LocalMasks.cat([LocalMasks.empty(height, width), *map(LocalMasks.from_label_map, maps.values())])
        boxes = masks.get_bboxes(HorizontalBoxes)
        size = height, width
        sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1, 1), img_id=0))
        sample.gt_instances = InstanceData(
            bboxes=boxes, labels=torch.arange(len(masks)) % 4,
            masks=masks if local else BitmapMasks(masks.to_ndarray(), height, width))
        inputs.append(torch.from_numpy(image).permute(2, 0, 1))
        samples.append(sample)
    assert [len(sample.gt_instances) for sample in samples] == [100, 0]
    return dict(inputs=inputs, data_samples=samples)


def set_assigner(node, name):
    for child in node if isinstance(node, list) else node.values():
        if isinstance(child, (dict, list)):
            set_assigner(child, name)
    if isinstance(node, dict) and 'assigner' in node:
        node['assigner']['type'] = name


def step(model, local):
    """Losses and gradients of one step."""
    model = deepcopy(model)
    set_assigner(model.train_cfg, 'LocalMaxIoUAssigner' if local else 'MaxIoUAssigner')
    model.roi_head.mask_head.type = 'CellMaskHead' if local else 'FCNMaskHead'
    if not local:
        model.type = {'CellMaskRCNN': 'MaskRCNN'}.get(model.type, model.type)
    torch.manual_seed(0)
    detector = MODELS.build(model).train()
    losses = detector(**detector.data_preprocessor(batch(local), training=True), mode='loss')
    total, values = detector.parse_losses(losses)
    total.backward()
    gradients = {name: value.grad for name, value in detector.named_parameters() if value.grad is not None}
    return {name: float(value.detach()) for name, value in values.items()}, gradients


@pytest.mark.parametrize('make', [tiny_mask_rcnn, tiny_cascade_mask_rcnn])
def test_losses_and_gradients_are_those_of_stock(make):
    register_all_modules()
    losses, gradients = step(make(), local=True)
    stock_losses, stock_gradients = step(make(), local=False)
    assert losses == pytest.approx(stock_losses, rel=1e-4)
    assert losses['loss_rpn_bbox'] > 0
    assert all(value > 0 for name, value in losses.items() if name.endswith(('loss_mask', 'loss_bbox')))
    assert gradients.keys() == stock_gradients.keys()
    for name, gradient in gradients.items():
        difference = (gradient - stock_gradients[name]).abs().max()
        assert difference <= 1e-4 * stock_gradients[name].abs().max(), name
    assert all((gradients[name] != 0).any() for name in gradients if 'mask_head' in name)
