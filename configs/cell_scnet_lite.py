# SCNet on the light backbone.
_base_ = ['cell_scnet.py', '_base_/lite.py']
channels = _base_.channels

model = dict(
    **_base_.lite_stages,
    roi_head=dict(
        **_base_.lite_extractors,
        bbox_head=[dict(head, in_channels=channels, fc_out_channels=512) for head in _base_.model.roi_head.bbox_head],
        mask_head=dict(num_convs=4, in_channels=channels, conv_out_channels=channels),
        glbctx_head=dict(num_convs=2, in_channels=channels, conv_out_channels=channels),
        feat_relay_head=dict(in_channels=512, out_conv_channels=channels)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=1000),
        rcnn=[dict(stage, sampler=dict(stage.sampler, num=256)) for stage in _base_.model.train_cfg.rcnn]))
train_dataloader, val_dataloader, test_dataloader = _base_.lite_dataloaders
train_cfg, param_scheduler = _base_.lite_train_cfg, _base_.lite_schedule
optim_wrapper = _base_.lite_optim_wrapper
