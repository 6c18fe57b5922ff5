# Half the channels in the mask head, and four samples for each value that RoIAlign takes.
_base_ = 'base.py'
model = dict(
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=2)),
        mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=2)),
        mask_head=dict(conv_out_channels=64)))
