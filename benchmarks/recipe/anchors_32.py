# Anchors from 32 px on, as MMDetection has them.
_base_ = 'base.py'
model = dict(rpn_head=dict(anchor_generator=dict(scales=[8])))
