# CondInst: finds cells at points, without anchors, and draws each mask by a small network of its own on shared
# features; fast where cells are few, and free of the fixed size of a box's mask.
_base_ = ['_base_/models/condinst.py', '_base_/cells.py', '_base_/plateau_20e.py', '_base_/runtime.py']
num_classes = len(_base_.classes)
max_dets = _base_.max_dets

model = dict(
    type='CellCondInst',
    neck=dict(start_level=0, num_outs=4),
    bbox_head=dict(
        type='CellCondInstBboxHead',
        num_classes=num_classes,
        stacked_convs=2,  # half of MMDetection's, for there are four times as many points
        strides=[4, 8, 16, 32],
        regress_ranges=((-1, 24), (24, 48), (48, 96), (96, 1e8))),  # pixels of the input from a point to a box's side
    mask_head=dict(
        type='CellCondInstMaskHead',
        # Of an image, drawn at random of some thousand points in hundreds of cells: time grows with them.
        max_masks_to_train=300,
        mask_feature_head=dict(mask_stride=4)),
    test_cfg=dict(score_thr=0.01, nms_pre=2 * max_dets, max_per_img=max_dets))

optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=500), _base_.param_scheduler]
