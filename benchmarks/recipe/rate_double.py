# Twice the learning rate.
_base_ = 'base.py'
optim_wrapper = dict(optimizer=dict(lr=0.0008))
