# Mask R-CNN as the course report states it. `max_dets` is the one addition: stock limits of 100 lose cells.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py', '_base_/cells.py', '_base_/plateau_20e.py', '_base_/runtime.py'
]
num_classes = len(_base_.classes)
max_dets = _base_.max_dets

model = dict(
    type='CellMaskRCNN',
    rpn_head=dict(loss_bbox=dict(type='SmoothL1Loss', loss_weight=1.0)),
    roi_head=dict(
        bbox_head=dict(num_classes=num_classes, loss_bbox=dict(type='SmoothL1Loss', loss_weight=1.0)),
        mask_head=dict(type='CellMaskHead', num_classes=num_classes)),
    # MMDetection's results, in a fraction of its memory and time.
    train_cfg=dict(
        rpn=dict(assigner=dict(type='LocalMaxIoUAssigner')), rcnn=dict(assigner=dict(type='LocalMaxIoUAssigner'))),
    test_cfg=dict(
        rpn=dict(nms_pre=2 * max_dets, max_per_img=2 * max_dets),
        rcnn=dict(max_per_img=max_dets)))
