# Nuclei of any stain, focus and magnification, for CPUs.
_base_ = 'cell_maskrcnn_lite.py'
data_root = 'data/nuclei'
classes = ('nucleus', )
crop = _base_.crop

# As the shipped weights were trained. Of images larger than 360 px this shows cells near the edges less often; a
# RandomCellCrop of 360 px with a margin, and RandomCellAffine(prob=0.7) behind it, would not.
train_pipeline = [
    dict(type='LoadTiffImage'),
    dict(type='LoadCellAnnotations'),
    dict(type='RandomCellCrop', crop_size=(2 * crop, 2 * crop)),
    dict(
        type='RandomApply',
        prob=0.7,
        transforms=dict(type='RandomCellAffine', max_rotation=180, scale_range=(0.6, 1.6), crop_size=(360, 360))),
    dict(type='RandomCellCrop', crop_size=(crop, crop)),
    dict(type='RandomQuarterTurn'),
    dict(type='RandomApply', prob=0.2, transforms=dict(type='RandomBlur')),
    dict(type='RandomApply', prob=0.2, transforms=dict(type='RandomJPEG')),
    dict(type='Resize', scale_factor=_base_.enlarge, keep_ratio=True),
    dict(type='RandomApply', prob=0.5, transforms=dict(type='PhotoMetricDistortion')),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(crop_size=None, pipeline=train_pipeline))
train_cfg = dict(max_epochs=16, val_interval=16)
