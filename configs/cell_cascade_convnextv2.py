# Cascade Mask R-CNN on ConvNeXtV2-Base, the backbone of the best public entries; for GPUs.
# Its weights are for research alone: CC BY-NC 4.0.
_base_ = 'cell_cascade.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='TimmBackbone',
        model_name='convnextv2_base.fcmae_ft_in22k_in1k',  # training tells where to put the weights if offline
        out_norm=True,
        drop_path_rate=0.3,
        with_cp=True,  # less memory, more time
        init_cfg=dict(type='Timm')),
    neck=dict(in_channels=[128, 256, 512, 1024]))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.0001, weight_decay=0.05),
    constructor='LayerDecayConstructor',
    paramwise_cfg=dict(decay_rate=0.93))  # at each of 36 blocks and the head: the stem's rate is a fifteenth
param_scheduler = [dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100), _base_.param_scheduler]
