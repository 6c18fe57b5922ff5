# YOLACT on the light backbone; its anchors start at stride 8 and 24 px, since images are enlarged.
_base_ = ['cell_yolact.py', '_base_/lite.py']
channels = _base_.channels
strides = [8, 16, 32]

model = dict(
    data_preprocessor=_base_.lite_preprocessor,
    backbone=_base_.lite_backbone,
    neck=dict(
        in_channels=_base_.lite_channels,
        out_channels=channels,
        start_level=1,
        num_outs=len(strides),
        norm_cfg=dict(type='GN', num_groups=32)),  # without it, features are so large that most prototypes die
    bbox_head=dict(
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(strides=strides, base_sizes=strides)),
    mask_head=dict(
        in_channels=channels,
        proto_channels=(channels, channels, None, channels, 32),  # enlarged from stride 8 to 4
        proto_kernel_sizes=(3, 3, -2, 3, 1),
        max_masks_to_train=100))  # of a crop
train_dataloader, val_dataloader, test_dataloader = _base_.lite_dataloaders
train_cfg, param_scheduler = _base_.lite_train_cfg, _base_.lite_schedule
optim_wrapper = _base_.lite_optim_wrapper
