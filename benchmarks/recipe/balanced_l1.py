# Balanced L1 loss of boxes, in both stages.
_base_ = 'base.py'
loss = dict(_delete_=True, type='BalancedL1Loss', alpha=0.5, gamma=1.5, beta=1.0, loss_weight=1.0)
model = dict(rpn_head=dict(loss_bbox=loss), roi_head=dict(bbox_head=dict(loss_bbox=loss)))
