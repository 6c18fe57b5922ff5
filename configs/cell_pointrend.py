# PointRend: masks refined where they are uncertain, at their borders: for outlines finer than 28 x 28 a cell.
_base_ = 'cell_maskrcnn.py'
num_classes = len(_base_.classes)

model = dict(
    type='CellPointRend',
    rpn_head=dict(anchor_generator=dict(scales=[2])),
    roi_head=dict(
        type='CellPointRendRoIHead',
        mask_roi_extractor=dict(
            type='GenericRoIExtractor',
            aggregation='concat',
            roi_layer=dict(_delete_=True, type='SimpleRoIAlign', output_size=14),
            featmap_strides=[4]),
        mask_head=dict(
            _delete_=True, type='CellCoarseMaskHead', in_channels=256, conv_out_channels=256, num_classes=num_classes),
        point_head=dict(type='CellMaskPointHead', num_classes=num_classes)),
    train_cfg=dict(
        rcnn=dict(mask_size=7, num_points=14 * 14, oversample_ratio=3, importance_sample_ratio=0.75)),
    # From 7 x 7 to 56 x 56, which is what a cell spans; MMDetection's 5 steps end at 224 x 224, for whole photographs.
    test_cfg=dict(rcnn=dict(subdivision_steps=3, subdivision_num_points=28 * 28, scale_factor=2)))
