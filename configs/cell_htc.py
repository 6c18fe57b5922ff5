# Hybrid Task Cascade: a Cascade Mask R-CNN with a mask head at each stage, which hands its features to the next one's.
# Its branch of semantic segmentation is left out, since it learns from labels of every pixel.
_base_ = 'cell_cascade.py'
mask_head = dict(_base_.model.roi_head.mask_head, type='CellHTCMaskHead')

model = dict(
    type='CellHybridTaskCascade',
    roi_head=dict(
        type='HybridTaskCascadeRoIHead', mask_head=[dict(mask_head, with_conv_res=False), mask_head, mask_head]))
