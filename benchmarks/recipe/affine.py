# Turned by any angle, scaled and sheared, and cut from more of the image, so that no border is seen.
_base_ = 'base.py'
wide = dict(type='RandomCrop', crop_size=(640, 640), allow_negative_crop=True)
affine = dict(type='RandomCellAffine', max_rotation=180, crop_size=(256, 256))
train_dataloader = dict(dataset=dict(pipeline=[*_base_.load, wide, affine, _base_.flip, _base_.pack]))
