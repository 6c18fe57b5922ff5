# Normalised by the mean and deviation of ImageNet, which this backbone was not trained with.
_base_ = 'base.py'
model = dict(data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]))
