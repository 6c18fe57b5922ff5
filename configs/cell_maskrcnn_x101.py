# Mask R-CNN on ResNeXt-101 32x4d: as large as ResNet-101, with convolutions in groups.
_base_ = 'cell_maskrcnn_r101.py'

model = dict(
    backbone=dict(
        type='ResNeXt', groups=32, base_width=4, init_cfg=dict(checkpoint='open-mmlab://resnext101_32x4d')))
