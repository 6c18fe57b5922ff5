# SOLOv2 on the light backbone; images are looked at in tiles of the size of the training crops.
_base_ = ['cell_solov2.py', '_base_/lite.py']
channels = _base_.channels
max_per_tile = _base_.tiles.max_per_tile
norm = dict(type='GN', num_groups=16)

model = dict(
    data_preprocessor=_base_.lite_preprocessor,
    tiles=dict(_base_.tiles, max_per_img=_base_.max_dets),
    backbone=_base_.lite_backbone,
    neck=dict(in_channels=_base_.lite_channels, out_channels=channels),
    mask_head=dict(
        in_channels=channels,
        feat_channels=channels,
        stacked_convs=2,
        norm_cfg=norm,
        num_grids=[40, 20, 10, 5],  # places of 10 px of the enlarged crop, 6 px of the image
        scale_ranges=((1, 64), (48, 128), (96, 256), (192, 2048)),
        mask_feature_head=dict(feat_channels=64, out_channels=64, norm_cfg=norm),
        max_masks_to_train=200),  # of a crop
    test_cfg=dict(nms_pre=2 * max_per_tile, max_per_img=max_per_tile))
train_dataloader, val_dataloader, test_dataloader = _base_.lite_dataloaders
train_cfg, param_scheduler = _base_.lite_train_cfg, _base_.lite_schedule
optim_wrapper = _base_.lite_optim_wrapper
