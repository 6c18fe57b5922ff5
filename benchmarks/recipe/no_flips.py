# No mirror images.
_base_ = 'base.py'
train_dataloader = dict(dataset=dict(pipeline=[*_base_.load, _base_.cut, _base_.pack]))
