# SCNet: a cascade whose one mask head learns from the boxes of the last stage, as it is used, and sees the whole image.
# Its branch of semantic segmentation is left out, since it learns from labels of every pixel.
_base_ = 'cell_cascade.py'
num_classes = len(_base_.classes)

model = dict(
    type='CellSCNet',
    roi_head=dict(
        type='CellSCNetRoIHead',
        bbox_head=[dict(head, type='SCNetBBoxHead', num_shared_fcs=2) for head in _base_.model.roi_head.bbox_head],
        mask_head=dict(type='CellSCNetMaskHead', num_convs=12),
        glbctx_head=dict(type='GlobalContextHead', num_classes=num_classes, loss_weight=3.0, conv_to_res=True),
        feat_relay_head=dict(type='CellFeatureRelayHead')))
