# Proposals suppressed from an IoU of 0.5 on.
_base_ = 'base.py'
nms = dict(type='nms', iou_threshold=0.5)
model = dict(train_cfg=dict(rpn_proposal=dict(nms=nms)), test_cfg=dict(rpn=dict(nms=nms)))
