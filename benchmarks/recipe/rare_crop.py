# Crops that hold a cell, of any class that the image has equally likely; boxes are tight.
_base_ = 'base.py'
rare_cut = dict(type='RandomCellCrop', crop_size=(256, 256), class_weights=[1, 1, 1, 1])
train_dataloader = dict(dataset=dict(pipeline=[*_base_.load, rare_cut, _base_.flip, _base_.pack]))
