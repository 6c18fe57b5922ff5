# The light Mask R-CNN at the images' own size, the cheapest that learns. Each config beside this one changes one thing.
_base_ = '../../configs/cell_maskrcnn_lite.py'
max_dets = 2000  # CoNSeP's fullest tile has 1,938 cells

load = [dict(type='LoadTiffImage'), dict(type='LoadCellAnnotations')]
cut = dict(type='RandomCrop', crop_size=(256, 256), allow_negative_crop=True)
flip = dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal'])
same = dict(type='Resize', scale_factor=1.0, keep_ratio=True)
pack = dict(type='PackDetInputs')
train_dataloader = dict(num_workers=1, dataset=dict(pipeline=[*load, cut, flip, pack]))
val_dataloader = dict(num_workers=1, dataset=dict(pipeline=[*load, same, pack]))
model = dict(
    backbone=dict(frozen_stages=1),
    rpn_head=dict(anchor_generator=dict(scales=[2])))  # from 8 px on
default_hooks = dict(epoch_loss=None)
