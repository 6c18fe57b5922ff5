# Mask R-CNN on Swin-Tiny, a transformer as large as ResNet-50.
_base_ = 'cell_maskrcnn_convnext.py'

model = dict(backbone=dict(model_name='swin_tiny_patch4_window7_224.ms_in1k'))  # weights: MIT
