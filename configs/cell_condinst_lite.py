# CondInst on the light backbone; its points start at stride 8, since images are enlarged.
_base_ = ['cell_condinst.py', '_base_/lite.py']
channels = _base_.channels

model = dict(
    data_preprocessor=_base_.lite_preprocessor,
    backbone=_base_.lite_backbone,
    neck=dict(in_channels=_base_.lite_channels, out_channels=channels, start_level=1, num_outs=3),
    bbox_head=dict(
        in_channels=channels,
        feat_channels=channels,
        strides=[8, 16, 32],
        regress_ranges=((-1, 48), (48, 96), (96, 1e8))),
    mask_head=dict(
        max_masks_to_train=64,  # of a crop
        mask_feature_head=dict(in_channels=channels, feat_channels=64, mask_stride=8, num_stacked_convs=2)))
train_dataloader, val_dataloader, test_dataloader = _base_.lite_dataloaders
train_cfg, param_scheduler = _base_.lite_train_cfg, _base_.lite_schedule
optim_wrapper = _base_.lite_optim_wrapper
