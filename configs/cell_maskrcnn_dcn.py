# Mask R-CNN whose backbone learns where its 3x3 convolutions look (DCNv2): for cells that are elongated or bent.
_base_ = 'cell_maskrcnn.py'

model = dict(
    backbone=dict(
        dcn=dict(type='DCNv2', deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True)),
    rpn_head=dict(anchor_generator=dict(scales=[2])))
