# QueryInst on the light backbone, with three stages; images are looked at in tiles of the size of the training crops.
_base_ = ['cell_queryinst.py', '_base_/lite.py']
channels = 96
stages = 3
roi_head = _base_.model.roi_head


def narrow(head, **options):
    conv = dict(head.dynamic_conv_cfg, in_channels=channels, feat_channels=channels // 4, out_channels=channels)
    return dict(head, in_channels=channels, dynamic_conv_cfg=conv, **options)


model = dict(
    data_preprocessor=_base_.lite_preprocessor,
    tiles=dict(_base_.tiles, max_per_img=_base_.max_dets),
    backbone=_base_.lite_backbone,
    neck=dict(in_channels=_base_.lite_channels, out_channels=channels),
    rpn_head=dict(proposal_feature_channel=channels),
    roi_head=dict(
        num_stages=stages,
        stage_loss_weights=[1] * stages,
        proposal_feature_channel=channels,
        bbox_roi_extractor=dict(out_channels=channels),
        bbox_head=[narrow(head, feedforward_channels=512) for head in roi_head.bbox_head[:stages]],
        mask_roi_extractor=dict(out_channels=channels),
        mask_head=[narrow(head, num_convs=1, conv_out_channels=channels) for head in roi_head.mask_head[:stages]]),
    train_cfg=dict(rcnn=_base_.model.train_cfg.rcnn[:stages]),
    test_cfg=dict(rcnn=dict(max_per_img=_base_.tiles.max_per_tile)))
del narrow, roi_head
train_dataloader, val_dataloader, test_dataloader = _base_.lite_dataloaders
train_cfg, param_scheduler = _base_.lite_train_cfg, _base_.lite_schedule
optim_wrapper = _base_.lite_optim_wrapper
