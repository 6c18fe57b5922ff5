# GIoU loss of boxes in both stages, ten times as heavy as L1, as MMDetection has it in the second.
_base_ = 'base.py'
loss = dict(_delete_=True, type='GIoULoss', loss_weight=10.0)
model = dict(
    rpn_head=dict(loss_bbox=loss, reg_decoded_bbox=True),
    roi_head=dict(bbox_head=dict(loss_bbox=loss, reg_decoded_bbox=True)))
