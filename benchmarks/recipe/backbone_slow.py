# The backbone learns a quarter as fast as what is new.
_base_ = 'base.py'
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.25))))
