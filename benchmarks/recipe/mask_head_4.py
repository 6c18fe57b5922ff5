# Four convolutions in the mask head, as in MMDetection, in place of two.
_base_ = 'base.py'
model = dict(roi_head=dict(mask_head=dict(num_convs=4)))
