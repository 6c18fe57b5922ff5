# Nuclei of any stain, focus and magnification, for CPUs.
_base_ = 'cell_maskrcnn_lite.py'
data_root = 'data/nuclei'
classes = ('nucleus', )
crop, enlarge = 256, 1.5

load = [dict(type='LoadTiffImage'), dict(type='LoadCellAnnotations')]
resize = dict(type='Resize', scale_factor=enlarge, keep_ratio=True)
train_pipeline = [
    *load,
    dict(type='RandomCellCrop', crop_size=(2 * crop, 2 * crop)),
    dict(
        type='RandomApply',
        prob=0.7,
        transforms=dict(type='RandomCellAffine', max_rotation=180, scale_range=(0.6, 1.6), crop_size=(360, 360))),
    dict(type='RandomCellCrop', crop_size=(crop, crop)),
    dict(type='RandomQuarterTurn'),
    dict(type='RandomApply', prob=0.2, transforms=dict(type='RandomBlur')),
    dict(type='RandomApply', prob=0.2, transforms=dict(type='RandomJPEG')),
    resize,
    dict(type='RandomApply', prob=0.5, transforms=dict(type='PhotoMetricDistortion')),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadTiffImage'),
    resize,
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=[*load, resize, dict(type='PackDetInputs')]))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
model = dict(backbone=dict(frozen_stages=1))
train_cfg = dict(max_epochs=16, val_interval=16)
