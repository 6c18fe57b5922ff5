# Mask R-CNN on Swin-Tiny, a transformer as large as ResNet-50; slower on CPUs than ConvNeXt-Tiny.
_base_ = 'cell_maskrcnn.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='TimmBackbone',
        model_name='swin_tiny_patch4_window7_224.ms_in1k',  # weights: MIT; training tells where to put them if offline
        out_norm=True,
        drop_path_rate=0.2,
        init_cfg=dict(type='Timm')),
    neck=dict(in_channels=[96, 192, 384, 768]),
    rpn_head=dict(anchor_generator=dict(scales=[2])))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.0001, weight_decay=0.05),
    constructor='LayerDecayConstructor',
    paramwise_cfg=dict(decay_rate=0.95))
param_scheduler = [dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100), _base_.param_scheduler]
