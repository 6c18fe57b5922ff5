# RTMDet-Ins: one stage, each point of the features makes its own mask by convolutions; built for speed.
_base_ = ['_base_/models/rtmdet_ins.py', '_base_/cells.py', '_base_/plateau_20e.py', '_base_/runtime.py']
max_dets = _base_.max_dets
norm = dict(type='BN')  # SyncBN does not run on CPUs

model = dict(
    type='CellRTMDet',
    use_syncbn=False,
    data_preprocessor=dict(pad_size_divisor=32, pad_mask=True),
    # Stride 4 too, which MMDetection's lacks: small cells are less than 3 points of stride 8 wide.
    backbone=dict(out_indices=(1, 2, 3, 4), norm_cfg=norm),
    neck=dict(in_channels=[128, *_base_.model.neck.in_channels], norm_cfg=norm),
    bbox_head=dict(
        type='CellRTMDetInsSepBNHead',
        num_classes=len(_base_.classes),
        norm_cfg=norm,
        anchor_generator=dict(strides=[4, 8, 16, 32]),
        # Up to 13 points learn each cell, and each makes a mask of the whole image: of an image's, 300 are drawn.
        max_masks_to_train=300),
    train_cfg=dict(assigner=dict(type='LocalSoftLabelAssigner')),
    test_cfg=dict(nms_pre=2 * max_dets, score_thr=0.01, max_per_img=max_dets))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.0004, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, bypass_duplicate=True))
param_scheduler = [dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100), _base_.param_scheduler]
