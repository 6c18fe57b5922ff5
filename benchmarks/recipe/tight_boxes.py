# Boxes of cells that a crop cuts tight around what is left of them, where MMDetection's are the rest of the former box.
_base_ = 'base.py'
tight_cut = dict(type='RandomCellCrop', crop_size=(256, 256), min_visible=0, prob_anywhere=1)
train_dataloader = dict(dataset=dict(pipeline=[*_base_.load, tight_cut, _base_.flip, _base_.pack]))
