# Crops that hold a cell, of any class equally likely.
_base_ = 'base.py'
cut = dict(type='RandomCellCrop', crop_size=(256, 256), class_weights=[15, 2, 1, 1.5])
train_dataloader = dict(dataset=dict(pipeline=[*_base_.load, cut, _base_.flip, _base_.pack]))
