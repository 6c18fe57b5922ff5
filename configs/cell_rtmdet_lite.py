# RTMDet-Ins on the light backbone.
_base_ = ['cell_rtmdet.py', '_base_/lite.py']
channels = 64  # of the neck and the head

model = dict(
    data_preprocessor=dict(_base_.lite_preprocessor, bgr_to_rgb=True),
    backbone=_base_.lite_backbone,
    neck=dict(in_channels=_base_.lite_channels, out_channels=channels, num_csp_blocks=1),
    bbox_head=dict(in_channels=channels, feat_channels=channels, max_masks_to_train=100))
train_dataloader, val_dataloader, test_dataloader = _base_.lite_dataloaders
# RTMDet's own rate is this high: its head begins with weights near zero.
optim_wrapper = dict(
    optimizer=dict(_base_.lite_optim_wrapper.optimizer, lr=0.003), clip_grad=_base_.lite_optim_wrapper.clip_grad)
train_cfg, param_scheduler = _base_.lite_train_cfg, _base_.lite_schedule
