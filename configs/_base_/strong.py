# How the strong configs train, on a GPU and for some hours: enlarged crops that hold cells, every way round, of varied
# stain, focus and compression; and an average of the weights. Not measured: no GPU was at hand.
crop = 320  # pixels of the image, before it is enlarged
enlarge = 2.0

load = [dict(type='LoadTiffImage'), dict(type='LoadCellAnnotations')]
resize = dict(type='Resize', scale_factor=enlarge, keep_ratio=True)
strong_train_pipeline = [
    *load,
    dict(type='RandomCellCrop', crop_size=(crop, crop)),
    dict(type='RandomQuarterTurn'),
    dict(type='StainJitter'),
    dict(type='RandomApply', prob=0.2, transforms=dict(type='RandomBlur')),
    dict(type='RandomApply', prob=0.2, transforms=dict(type='RandomJPEG')),
    resize,
    dict(type='PackDetInputs'),
]
strong_val_pipeline = [*load, resize, dict(type='PackDetInputs')]
strong_test_pipeline = [
    dict(type='LoadTiffImage'),
    resize,
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
# For the training, validation and test data.
strong_dataloaders = [
    dict(dataset=dict(crop_size=(crop, crop), pipeline=strong_train_pipeline)),
    dict(dataset=dict(pipeline=strong_val_pipeline)),
    dict(dataset=dict(pipeline=strong_test_pipeline)),
]
# An epoch has each image as often as crops cover it: of CoNSeP in 178 images of 33 to 1,000 px, these are 7,450 steps.
strong_train_cfg = dict(max_epochs=50, val_interval=5)
strong_optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.0001, weight_decay=0.05), clip_grad=dict(max_norm=10.0))
strong_schedule = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=True, convert_to_iter_based=True),
]
# Over the last 1,000 steps or so; gamma says for how long it averages over fewer, at the beginning.
strong_hooks = [dict(
    type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.001, gamma=200, update_buffers=True, priority=49)]
