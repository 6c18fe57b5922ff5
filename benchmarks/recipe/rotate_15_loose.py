# Turned as by MMDetection's Rotate: boxes are those around the turned boxes, and corners of the image are grey.
_base_ = 'base.py'
turn = [dict(type='Rotate', prob=1.0, max_mag=15.0), dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1))]
train_dataloader = dict(dataset=dict(pipeline=[*_base_.load, _base_.cut, *turn, _base_.flip, _base_.pack]))
