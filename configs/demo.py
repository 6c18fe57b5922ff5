# The smallest thing that learns the demo data in some minutes on two CPU cores.
_base_ = 'cell_maskrcnn_lite.py'
data_root = 'data/demo'
max_dets = 300
channels = 64
crop = 192  # pixels of the image, before it is enlarged

train_pipeline = [
    dict(type='LoadTiffImage'),
    dict(type='LoadCellAnnotations'),
    dict(type='RandomCellCrop', crop_size=(crop, crop)),
    dict(type='Resize', scale_factor=_base_.enlarge, keep_ratio=True),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
# Few processes, for a machine with little memory.
train_dataloader = dict(batch_size=2, num_workers=1, dataset=dict(crop_size=None, pipeline=train_pipeline))
val_dataloader = dict(num_workers=0)
test_dataloader = dict(num_workers=0)

model = dict(
    neck=dict(out_channels=channels),
    rpn_head=dict(in_channels=channels, feat_channels=channels),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels),
        bbox_head=dict(in_channels=channels, fc_out_channels=256),
        mask_roi_extractor=dict(out_channels=channels),
        mask_head=dict(in_channels=channels, conv_out_channels=channels)),
    train_cfg=dict(rcnn=dict(sampler=dict(num=128))))
train_cfg = dict(max_epochs=8, val_interval=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=28),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, convert_to_iter_based=True),
]
