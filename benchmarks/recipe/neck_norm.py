# Group norm in the neck.
_base_ = 'base.py'
model = dict(neck=dict(norm_cfg=dict(type='GN', num_groups=32)))
