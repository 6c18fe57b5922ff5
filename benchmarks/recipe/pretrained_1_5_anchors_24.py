# pretrained_1_5, with anchors from 24 px on, which are 16 px of the image.
_base_ = 'pretrained_1_5.py'
model = dict(rpn_head=dict(anchor_generator=dict(scales=[6])))
