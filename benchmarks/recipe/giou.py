# GIoU loss of boxes, in both stages.
_base_ = 'base.py'
loss = dict(_delete_=True, type='GIoULoss', loss_weight=2.0)
model = dict(
    rpn_head=dict(loss_bbox=loss, reg_decoded_bbox=True),
    roi_head=dict(bbox_head=dict(loss_bbox=loss, reg_decoded_bbox=True)))
