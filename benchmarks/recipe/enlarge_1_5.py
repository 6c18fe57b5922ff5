# Crops and images enlarged by 1.5.
_base_ = 'base.py'
train_dataloader, val_dataloader = _base_.enlarged_dataloaders
model = dict(rpn_head=dict(anchor_generator=dict(scales=[3])))
