# Mask2Former: queries that attend to the image become a class and a mask each, without boxes. Masks are compared at
# random points, half of them near cells here: of those of the whole image, a small cell gets too few to be learnt.
_base_ = ['_base_/models/mask2former.py', '_base_/cells.py', '_base_/plateau_20e.py', '_base_/runtime.py']
num_classes = len(_base_.classes)
num_queries = 500  # the most cells that it can find in what it sees at once, whatever max_dets says

head = dict(num_things_classes=num_classes, num_stuff_classes=0)
model = dict(
    type='CellMask2Former',
    data_preprocessor=dict(batch_augments=None),
    panoptic_head=dict(
        head,
        type='CellMask2FormerHead',
        num_queries=num_queries,
        loss_cls=dict(class_weight=[1.0] * num_classes + [0.1])),
    panoptic_fusion_head=dict(head, type='CellMaskFormerFusionHead'),
    test_cfg=dict(max_per_image=min(_base_.max_dets, num_queries * num_classes)))
no_decay = dict(lr_mult=1.0, decay_mult=0.0)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.0001, weight_decay=0.05),
    clip_grad=dict(max_norm=0.01),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys=dict(
            backbone=dict(lr_mult=0.1, decay_mult=1.0),
            query_embed=no_decay,
            query_feat=no_decay,
            level_embed=no_decay)))
