# SOLOv2: each place of a grid predicts the mask of the cell whose centre it holds. No boxes, and masks as fine as the
# features; the one to take where boxes say little, as with long or bent cells.
_base_ = ['_base_/models/solov2.py', '_base_/cells.py', '_base_/plateau_20e.py', '_base_/runtime.py']
num_classes = len(_base_.classes)
max_dets = _base_.max_dets

model = dict(
    type='CellSOLOv2',
    neck=dict(num_outs=4),
    mask_head=dict(
        type='CellSOLOV2Head',
        num_classes=num_classes,
        feat_channels=256,  # half of MMDetection's, for there are three times as many places
        # Two cells in one place of a grid lose one: places of 8 px of an input of 800, as fine as the features, are
        # 10 px of an image of 1,000, and 9 in 10 nuclei have no neighbour's centre as close at 40x. Larger cells have
        # coarser grids.
        num_grids=[100, 50, 25, 13],
        scale_ranges=((1, 32), (24, 64), (48, 128), (96, 2048)),
        strides=[2, 4, 8, 16],  # the least area of a mask, in features of 4 x 4 px
        max_masks_to_train=500),  # of an image, drawn at random each time; time grows with them
    test_cfg=dict(score_thr=0.01, filter_thr=0.01, nms_pre=2 * max_dets, max_per_img=max_dets))

optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=500), _base_.param_scheduler]
