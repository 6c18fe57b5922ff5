# How the configs beside this folder see the data: crops of 256 px at the images' own size, and whole images.
load = [dict(type='LoadTiffImage'), dict(type='LoadCellAnnotations')]
cut = dict(type='RandomCrop', crop_size=(256, 256), allow_negative_crop=True)
flip = dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal'])
same = dict(type='Resize', scale_factor=1.0, keep_ratio=True)
pack = dict(type='PackDetInputs')
crop_dataloaders = [
    dict(num_workers=1, dataset=dict(crop_size=None, pipeline=[*load, cut, flip, pack])),
    dict(num_workers=1, dataset=dict(pipeline=[*load, same, pack])),
]
larger = dict(type='Resize', scale_factor=1.5, keep_ratio=True)
enlarged_dataloaders = [
    dict(dataset=dict(pipeline=[*load, cut, larger, flip, pack])),
    dict(dataset=dict(pipeline=[*load, larger, pack])),
]
crop_model = dict(
    rpn_head=dict(anchor_generator=dict(scales=[2])))  # from 8 px on
crop_hooks = dict(epoch_loss=None)  # one epoch has no course to follow
