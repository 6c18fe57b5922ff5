# Mask Scoring R-CNN: scores are lowered by how well the mask is expected to fit, for what counts at high IoU.
_base_ = 'cell_maskrcnn.py'

model = dict(
    type='CellMaskScoringRCNN',
    rpn_head=dict(anchor_generator=dict(scales=[2])),
    roi_head=dict(
        type='MaskScoringRoIHead', mask_iou_head=dict(type='CellMaskIoUHead', num_classes=len(_base_.classes))),
    # Of logits: a probability of 0.5, at which masks are cut. MMDetection's own 0.5 is one of 0.62.
    train_cfg=dict(rcnn=dict(mask_thr_binary=0.0)))
