# Cascade Mask R-CNN on ConvNeXtV2-Base, the backbone of the best public entries; for GPUs.
# Its weights are for research alone: CC BY-NC 4.0.
_base_ = ['cell_cascade.py', '_base_/strong.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='TimmBackbone',
        model_name='convnextv2_base.fcmae_ft_in22k_in1k',  # training tells where to put the weights if offline
        out_norm=True,
        drop_path_rate=0.3,
        with_cp=True,  # less memory, more time
        init_cfg=dict(type='Timm')),
    neck=dict(in_channels=[128, 256, 512, 1024]),
    rpn_head=dict(anchor_generator=dict(scales=[4])))  # from 16 px on, for enlarged cells
train_dataloader, val_dataloader, test_dataloader = _base_.strong_dataloaders
optim_wrapper = dict(
    **_base_.strong_optim_wrapper,
    constructor='LayerDecayConstructor',
    paramwise_cfg=dict(decay_rate=0.93))  # at each of 36 blocks and the head: the stem's rate is a fifteenth
train_cfg, param_scheduler, custom_hooks = _base_.strong_train_cfg, _base_.strong_schedule, _base_.strong_hooks
