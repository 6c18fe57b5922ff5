# From the nuclei, with features of all levels for what a box is.
_base_ = 'pretrained_1_5.py'
model = dict(roi_head=dict(bbox_roi_extractor=dict(type='GenericRoIExtractor', aggregation='sum')))
