# Turned by any angle, scaled and sheared, cut with a margin that reaches over the image's edge: all of it is seen.
_base_ = 'affine.py'
wide = dict(type='RandomCellCrop', crop_size=(256, 256), prob_anywhere=1, margin=192)
train_dataloader = dict(dataset=dict(pipeline=[*_base_.load, wide, _base_.affine, _base_.flip, _base_.pack]))
