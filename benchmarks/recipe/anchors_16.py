# Anchors from 16 px on: the next finer feature map finds a cell.
_base_ = 'base.py'
model = dict(rpn_head=dict(anchor_generator=dict(scales=[4])))
