# Turned by up to 15 degrees, as the course report tried.
_base_ = 'base.py'
wide = dict(type='RandomCrop', crop_size=(330, 330), allow_negative_crop=True)
turn = dict(
    type='RandomCellAffine', max_rotation=15, scale_range=(1, 1), max_shear=0, max_translation=0, crop_size=(256, 256))
train_dataloader = dict(dataset=dict(pipeline=[*_base_.load, wide, turn, _base_.flip, _base_.pack]))
