# Twice the proposals trained on, half of them cells.
_base_ = 'base.py'
model = dict(train_cfg=dict(rcnn=dict(sampler=dict(num=512, pos_fraction=0.5))))
