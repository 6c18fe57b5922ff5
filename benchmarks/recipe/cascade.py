# Three box heads in a row.
_base_ = ['../../configs/cell_cascade_lite.py']
max_dets = 2000
load = [dict(type='LoadTiffImage'), dict(type='LoadCellAnnotations')]
cut = dict(type='RandomCrop', crop_size=(256, 256), allow_negative_crop=True)
flip = dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal'])
same = dict(type='Resize', scale_factor=1.0, keep_ratio=True)
pack = dict(type='PackDetInputs')
train_dataloader = dict(num_workers=1, dataset=dict(pipeline=[*load, cut, flip, pack]))
val_dataloader = dict(num_workers=1, dataset=dict(pipeline=[*load, same, pack]))
model = dict(
    backbone=dict(frozen_stages=1),
    rpn_head=dict(anchor_generator=dict(scales=[2])))
default_hooks = dict(epoch_loss=None)
