# What makes a model light: EfficientNet-Lite0, whose ImageNet weights come with a pip package, and training on enlarged
# crops, so that small cells span several feature cells. A config takes what it needs, as cell_maskrcnn_lite.py does.
crop = 256  # pixels of the image, before it is enlarged
enlarge = 1.5
channels = 128  # of the feature maps that the neck hands on
# Models with queries, or with grids over the image, know cells by where they are between its edges: they see whole
# images as they see crops, in squares of that size, which overlap by the length of all but 1 in 100 cells.
tiles = dict(size=int(crop * enlarge), overlap=96, max_per_tile=300)  # CoNSeP's fullest such square has 169 cells

lite_preprocessor = dict(mean=[127.5] * 3, std=[127.5] * 3)  # Lite0 was pretrained on values from -1 to 1.
lite_backbone = dict(
    _delete_=True,
    type='TimmBackbone',
    model_name='tf_efficientnet_lite0',
    frozen_stages=1,  # the stem and the first stage, which cost much of a step and change little
    init_cfg=dict(type='EfficientNetLite0'))
lite_channels = [24, 40, 112, 320]  # of the backbone's feature maps, strides 4 to 32

# Two-stage models have these parts in common.
lite_stages = dict(
    data_preprocessor=lite_preprocessor,
    backbone=lite_backbone,
    neck=dict(in_channels=lite_channels, out_channels=channels),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(scales=[4])))  # of 16 px and more, for enlarged cells
lite_extractors = dict(
    bbox_roi_extractor=dict(out_channels=channels), mask_roi_extractor=dict(out_channels=channels))

lite_train_pipeline = [
    dict(type='LoadTiffImage'),
    dict(type='LoadCellAnnotations'),
    dict(type='RandomCellCrop', crop_size=(crop, crop)),
    dict(type='Resize', scale_factor=enlarge, keep_ratio=True),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
lite_val_pipeline = [  # with the true cells, for the validation loss
    dict(type='LoadTiffImage'),
    dict(type='LoadCellAnnotations'),
    dict(type='Resize', scale_factor=enlarge, keep_ratio=True),
    dict(type='PackDetInputs'),
]
lite_test_pipeline = [
    dict(type='LoadTiffImage'),
    dict(type='Resize', scale_factor=enlarge, keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
# For the training, validation and test data.
lite_dataloaders = [
    dict(dataset=dict(crop_size=(crop, crop), pipeline=lite_train_pipeline)),
    dict(dataset=dict(pipeline=lite_val_pipeline)),
    dict(dataset=dict(pipeline=lite_test_pipeline)),
]
lite_optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.0004, weight_decay=0.01), clip_grad=dict(max_norm=10.0))
# An epoch has each image as often as crops cover it: of CoNSeP in 178 images of 33 to 1,000 px, these are 2,436 steps.
lite_train_cfg = dict(max_epochs=12, val_interval=2)
# A short warm-up, then down to nothing along a cosine.
lite_schedule = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, convert_to_iter_based=True),
]
