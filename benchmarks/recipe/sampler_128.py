# Half the proposals trained on.
_base_ = 'base.py'
model = dict(train_cfg=dict(rcnn=dict(sampler=dict(num=128))))
