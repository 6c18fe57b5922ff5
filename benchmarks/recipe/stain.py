# Stains varied.
_base_ = 'base.py'
stain = dict(type='StainJitter')
train_dataloader = dict(dataset=dict(pipeline=[*_base_.load, _base_.cut, _base_.flip, stain, _base_.pack]))
