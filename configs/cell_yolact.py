# YOLACT: masks are sums of 32 prototypes of the whole image, weighted anew for each box. Between cells that touch, only
# the box parts them.
_base_ = ['_base_/models/yolact.py', '_base_/cells.py', '_base_/plateau_20e.py', '_base_/runtime.py']
num_classes = len(_base_.classes)
max_dets = _base_.max_dets
strides = [4, 8, 16, 32]  # of anchors of 12 to 96 px of the input, which is not forced to 550 x 550 px

model = dict(
    type='CellYOLACT',
    data_preprocessor=dict(pad_size_divisor=32),
    neck=dict(start_level=0, num_outs=len(strides)),
    bbox_head=dict(
        type='CellYOLACTHead',
        num_classes=num_classes,
        anchor_generator=dict(strides=strides, base_sizes=strides, centers=None)),
    mask_head=dict(
        type='CellYOLACTProtonet',
        num_classes=num_classes,
        proto_channels=(256, 256, 256, 256, 32),  # not enlarged: the features have stride 4 already
        proto_kernel_sizes=(3, 3, 3, 3, 1),
        # Of an image, drawn at random each time, of a match or some for each cell.
        max_masks_to_train=300),
    train_cfg=dict(assigner=dict(type='LocalMaxIoUAssigner')),
    test_cfg=dict(nms_pre=2 * max_dets, top_k=2 * max_dets, max_per_img=max_dets))  # top_k: boxes of a class before NMS

optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=500), _base_.param_scheduler]
