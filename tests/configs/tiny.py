# A Mask R-CNN small enough to train in seconds, by the same path as every other config.
_base_ = '../../configs/demo.py'
channels = 16
train_pipeline = [
    dict(type='LoadTiffImage'),
    dict(type='LoadCellAnnotations'),
    dict(type='RandomCrop', crop_size=(96, 96), allow_negative_crop=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
val_pipeline = [
    dict(type='LoadTiffImage'),
    dict(type='LoadCellAnnotations'),
    dict(type='Resize', scale_factor=1.0, keep_ratio=True),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadTiffImage'),
    dict(type='Resize', scale_factor=1.0, keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(batch_size=2, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(num_workers=0, dataset=dict(pipeline=test_pipeline))
max_dets = 50

model = dict(
    backbone=dict(model_name='test_efficientnet', strides=(4, 8, 16, 32), frozen_stages=-1, init_cfg=None),
    neck=dict(in_channels=[24, 32, 48, 64], out_channels=channels),
    rpn_head=dict(in_channels=channels, feat_channels=channels),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels),
        bbox_head=dict(in_channels=channels, fc_out_channels=32),
        mask_roi_extractor=dict(out_channels=channels),
        mask_head=dict(num_convs=1, in_channels=channels, conv_out_channels=channels)),
    train_cfg=dict(rcnn=dict(sampler=dict(num=32))))
train_cfg = dict(max_epochs=3)
# A rate that follows validation, so that a resumed run has that to remember too.
param_scheduler = dict(
    _delete_=True,
    type='ReduceOnPlateauLR',
    monitor='cells/AP50_dense',
    rule='greater',
    factor=0.5,
    patience=0,
    by_epoch=True,
    end=100)
