# QueryInst: learnt proposals, refined in six stages with a mask each, one cell a proposal; needs no NMS.
_base_ = ['_base_/models/queryinst.py', '_base_/cells.py', '_base_/plateau_20e.py', '_base_/runtime.py']
num_classes = len(_base_.classes)
num_proposals = 500  # the most cells that it can find in what it sees at once, whatever max_dets says
heads = _base_.model.roi_head

model = dict(
    type='CellQueryInst',
    rpn_head=dict(type='GridProposals', num_proposals=num_proposals),
    roi_head=dict(
        type='CellSparseRoIHead',
        bbox_head=[dict(head, num_classes=num_classes) for head in heads.bbox_head],
        mask_head=[dict(head, type='CellDynamicMaskHead', num_classes=num_classes) for head in heads.mask_head]),
    test_cfg=dict(rcnn=dict(max_per_img=_base_.max_dets)))
del heads
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.0001, weight_decay=0.0001),
    clip_grad=dict(max_norm=0.1),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))))
param_scheduler = [dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100), _base_.param_scheduler]
