# The same model on EfficientNet-Lite0, for CPUs and for machines that reach no model hub: its ImageNet weights come
# with a pip package. Light FPN and heads, anchors that fit cells, images enlarged so that cells span feature cells.
_base_ = 'cell_maskrcnn.py'
crop = 256  # pixels of the image, before it is enlarged
enlarge = 2.0
channels = 128

train_pipeline = [
    dict(type='LoadTiffImage'),
    dict(type='LoadCellAnnotations'),
    dict(type='RandomCrop', crop_size=(crop, crop), allow_negative_crop=True),
    dict(type='Resize', scale_factor=enlarge, keep_ratio=True),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
val_pipeline = [  # with the true cells, for the validation loss
    dict(type='LoadTiffImage'),
    dict(type='LoadCellAnnotations'),
    dict(type='Resize', scale_factor=enlarge, keep_ratio=True),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadTiffImage'),
    dict(type='Resize', scale_factor=enlarge, keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

model = dict(
    # Lite0 was pretrained on values from -1 to 1.
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
    backbone=dict(
        _delete_=True,
        type='TimmBackbone',
        model_name='tf_efficientnet_lite0',
        init_cfg=dict(type='EfficientNetLite0')),
    neck=dict(in_channels=[24, 40, 112, 320], out_channels=channels),
    rpn_head=dict(in_channels=channels, feat_channels=channels, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels),
        bbox_head=dict(in_channels=channels, fc_out_channels=512),
        mask_roi_extractor=dict(out_channels=channels),
        mask_head=dict(num_convs=2, in_channels=channels, conv_out_channels=channels)),
    train_cfg=dict(rpn_proposal=dict(nms_pre=1000), rcnn=dict(sampler=dict(num=256))))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.0004, weight_decay=0.01), clip_grad=dict(max_norm=10.0))
# A short warm-up, then down to nothing along a cosine.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, convert_to_iter_based=True),
]
