# Out of focus, or compressed, now and then.
_base_ = 'base.py'
flaws = [dict(type='RandomApply', prob=0.3, transforms=dict(type=kind)) for kind in ('RandomBlur', 'RandomJPEG')]
train_dataloader = dict(dataset=dict(pipeline=[*_base_.load, _base_.cut, *flaws, _base_.flip, _base_.pack]))
