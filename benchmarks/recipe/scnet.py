# A cascade with one mask head, and with a look at the whole crop.
_base_ = ['../../configs/cell_scnet_lite.py', '_base_/crops.py']
max_dets = 2000  # one of CoNSeP's training tiles has more cells, 2,283

train_dataloader, val_dataloader = _base_.crop_dataloaders
model, default_hooks = _base_.crop_model, _base_.crop_hooks
