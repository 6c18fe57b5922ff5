# The data: where it is, its classes, how it is loaded and scored. Change the first three lines here, in a config of
# your own, or by --cfg-options; the tools carry them to every place below and in the model that depends on them.
data_root = 'data/cells'
classes = ('class1', 'class2', 'class3', 'class4')
max_dets = 1000  # how many cells are looked for in an image; the true images hold up to 772

train_pipeline = [
    dict(type='LoadTiffImage'),
    dict(type='LoadCellAnnotations'),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='PackDetInputs'),
]
val_pipeline = [  # with the true cells, for the validation loss
    dict(type='LoadTiffImage'),
    dict(type='LoadCellAnnotations'),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadTiffImage'),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    worker_init_fn=dict(type='prepare_worker'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CellDataset',
        data_root=data_root,
        ann_file='annotations/train.json',
        metainfo=dict(classes=classes),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    worker_init_fn=dict(type='prepare_worker'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CellDataset',
        data_root=data_root,
        ann_file='annotations/val.json',
        metainfo=dict(classes=classes),
        test_mode=True,
        pipeline=val_pipeline))
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    worker_init_fn=dict(type='prepare_worker'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CellDataset',
        data_root=data_root,
        ann_file='annotations/test.json',
        metainfo=dict(classes=classes),
        test_mode=True,
        pipeline=test_pipeline))
val_evaluator = dict(type='CellMetric', ann_file=f'{data_root}/annotations/val.json', max_dets=max_dets)
test_evaluator = dict(type='Submission', ann_file=f'{data_root}/annotations/test.json')
