# Mask R-CNN on a ResNet of twice the depth: what a larger backbone alone adds.
_base_ = 'cell_maskrcnn.py'

model = dict(
    backbone=dict(depth=101, init_cfg=dict(checkpoint='torchvision://resnet101')),
    rpn_head=dict(anchor_generator=dict(scales=[2])))
