# Starts from the model of nuclei, at the enlargement and with the anchors that it learned with.
_base_ = 'enlarge_1_5.py'
load_from = '{{ fileDirname }}/../../weights/nuclei_lite.pth'
model = dict(rpn_head=dict(anchor_generator=dict(scales=[4])))
