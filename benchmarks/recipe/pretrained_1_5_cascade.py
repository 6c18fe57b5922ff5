# The cascade, started from the model of nuclei, at the enlargement and with the anchors that it learned with.
_base_ = 'cascade.py'
load_from = '{{ fileDirname }}/../../weights/nuclei_lite.pth'
resize = dict(type='Resize', scale_factor=1.5, keep_ratio=True)
train_dataloader = dict(dataset=dict(pipeline=[*_base_.load, _base_.cut, resize, _base_.flip, _base_.pack]))
val_dataloader = dict(dataset=dict(pipeline=[*_base_.load, resize, _base_.pack]))
model = dict(rpn_head=dict(anchor_generator=dict(scales=[4])))
