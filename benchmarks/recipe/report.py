# The course report's recipe on the same backbone: whole images, large anchors, SGD, no augmentation.
_base_ = ['../../configs/cell_maskrcnn.py', '../../configs/_base_/lite.py']
max_dets = 2000
pipeline = [dict(type='LoadTiffImage'), dict(type='LoadCellAnnotations'),
            dict(type='Resize', scale=(1333, 800), keep_ratio=True), dict(type='PackDetInputs')]

train_dataloader = dict(num_workers=1)
val_dataloader = dict(num_workers=1, dataset=dict(pipeline=pipeline))
model = dict(
    data_preprocessor=_base_.lite_preprocessor,
    backbone=_base_.lite_backbone,
    neck=dict(in_channels=_base_.lite_channels))
# On this backbone SGD alone ends in losses of NaN within sixteen steps.
optim_wrapper = dict(clip_grad=dict(max_norm=10.0))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50), _base_.param_scheduler]
default_hooks = dict(epoch_loss=None)
