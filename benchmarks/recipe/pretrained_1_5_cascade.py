# The cascade, started from the model of nuclei, at the enlargement and with the anchors that it learned with.
_base_ = 'cascade.py'
load_from = '{{ fileDirname }}/../../weights/nuclei_lite.pth'
train_dataloader, val_dataloader = _base_.enlarged_dataloaders
model = dict(rpn_head=dict(anchor_generator=dict(scales=[4])))
