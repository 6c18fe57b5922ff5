# Brightness, contrast, saturation and hue varied as for photographs.
_base_ = 'base.py'
jitter = dict(type='PhotoMetricDistortion')
train_dataloader = dict(dataset=dict(pipeline=[*_base_.load, _base_.cut, _base_.flip, jitter, _base_.pack]))
