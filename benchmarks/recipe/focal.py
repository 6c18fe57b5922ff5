# Focal loss of the objectness.
_base_ = 'base.py'
model = dict(rpn_head=dict(
    loss_cls=dict(_delete_=True, type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)))
