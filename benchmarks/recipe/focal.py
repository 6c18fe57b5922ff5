# Focal loss of the objectness, of all anchors, where the base draws 256 of them.
_base_ = 'base.py'
model = dict(
    rpn_head=dict(
        loss_cls=dict(_delete_=True, type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)),
    train_cfg=dict(rpn=dict(sampler=dict(_delete_=True, type='PseudoSampler'))))
