# Mask R-CNN for CPUs and for machines that reach no model hub: light FPN and heads, anchors that fit cells.
_base_ = ['cell_maskrcnn.py', '_base_/lite.py']
channels = _base_.channels

model = dict(
    data_preprocessor=_base_.lite_preprocessor,
    backbone=_base_.lite_backbone,
    neck=dict(in_channels=_base_.lite_channels, out_channels=channels),
    rpn_head=dict(in_channels=channels, feat_channels=channels, anchor_generator=dict(scales=_base_.lite_scales)),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels),
        bbox_head=dict(in_channels=channels, fc_out_channels=512),
        mask_roi_extractor=dict(out_channels=channels),
        mask_head=dict(num_convs=2, in_channels=channels, conv_out_channels=channels)),
    train_cfg=dict(rpn_proposal=dict(nms_pre=1000), rcnn=dict(sampler=dict(num=256))))
train_dataloader, val_dataloader, test_dataloader = _base_.lite_dataloaders
optim_wrapper, param_scheduler = _base_.lite_optim_wrapper, _base_.lite_schedule
