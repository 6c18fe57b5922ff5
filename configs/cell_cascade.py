# Cascade Mask R-CNN: three heads for boxes, each refining those of the one before and trained on better ones.
_base_ = [
    'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py', '_base_/cells.py', '_base_/plateau_20e.py', '_base_/runtime.py'
]
num_classes = len(_base_.classes)
max_dets = _base_.max_dets
assigner = dict(type='LocalMaxIoUAssigner')

model = dict(
    type='CellCascadeRCNN',
    rpn_head=dict(anchor_generator=dict(scales=[2])),  # from 8 px on: half of the course's cells are below 25 px
    roi_head=dict(  # lists replace those of the base: derived from it, they keep what differs between the stages
        bbox_head=[dict(head, num_classes=num_classes) for head in _base_.model.roi_head.bbox_head],
        mask_head=dict(type='CellMaskHead', num_classes=num_classes)),
    train_cfg=dict(
        rpn=dict(assigner=assigner),
        rcnn=[dict(stage, assigner=dict(stage.assigner, **assigner)) for stage in _base_.model.train_cfg.rcnn]),
    test_cfg=dict(
        rpn=dict(nms_pre=2 * max_dets, max_per_img=2 * max_dets),
        rcnn=dict(max_per_img=max_dets)))
