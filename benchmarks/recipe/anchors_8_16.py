# Anchors of two sizes on each feature map, 8 and 16 px on the finest.
_base_ = 'base.py'
model = dict(rpn_head=dict(anchor_generator=dict(scales=[2, 4])))
