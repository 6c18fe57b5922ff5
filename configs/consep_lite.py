# Nuclei of H&E and their types, as CoNSeP has them in tiles of 1,000 px; for CPUs. docs/recipe.md says how to get them.
_base_ = 'cell_maskrcnn_lite.py'
data_root = 'data/consep_tiles'
max_dets = 2400  # the fullest tile has 2,283 cells
crop = _base_.crop
load_from = '{{ fileDirname }}/../weights/nuclei_lite.pth'

train_pipeline = [
    dict(type='LoadTiffImage'),
    dict(type='LoadCellAnnotations'),
    dict(type='RandomCellCrop', crop_size=(crop, crop)),
    dict(type='RandomQuarterTurn'),
    dict(type='StainJitter'),
    dict(type='RandomApply', prob=0.2, transforms=dict(type='RandomBlur')),
    dict(type='RandomApply', prob=0.2, transforms=dict(type='RandomJPEG')),
    dict(type='Resize', scale_factor=_base_.enlarge, keep_ratio=True),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
train_cfg = dict(max_epochs=54, val_interval=9)  # of 92 steps
