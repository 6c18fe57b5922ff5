# Mask Scoring R-CNN on the light backbone.
_base_ = ['cell_msrcnn.py', '_base_/lite.py']
channels = _base_.channels

model = dict(
    **_base_.lite_stages,
    roi_head=dict(
        **_base_.lite_extractors,
        bbox_head=dict(in_channels=channels, fc_out_channels=512),
        mask_head=dict(num_convs=2, in_channels=channels, conv_out_channels=channels),
        mask_iou_head=dict(num_convs=2, in_channels=channels, conv_out_channels=channels, fc_out_channels=256)),
    train_cfg=dict(rpn_proposal=dict(nms_pre=1000), rcnn=dict(sampler=dict(num=256))))
train_dataloader, val_dataloader, test_dataloader = _base_.lite_dataloaders
train_cfg, param_scheduler = _base_.lite_train_cfg, _base_.lite_schedule
optim_wrapper = _base_.lite_optim_wrapper
