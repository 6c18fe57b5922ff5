# Mask R-CNN on ResNet-50, for one GPU and a long training.
_base_ = ['cell_maskrcnn.py', '_base_/strong.py']

model = dict(
    rpn_head=dict(anchor_generator=dict(scales=[4])),  # from 16 px on, for enlarged cells
    train_cfg=dict(rcnn=dict(sampler=dict(num=512))))
train_dataloader, val_dataloader, test_dataloader = _base_.strong_dataloaders
optim_wrapper = _base_.strong_optim_wrapper
train_cfg, param_scheduler, custom_hooks = _base_.strong_train_cfg, _base_.strong_schedule, _base_.strong_hooks
