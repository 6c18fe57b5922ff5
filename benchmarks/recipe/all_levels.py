# What a box is, told by features of all levels of the pyramid, the coarse of which know its surroundings.
_base_ = 'base.py'
model = dict(roi_head=dict(bbox_roi_extractor=dict(type='GenericRoIExtractor', aggregation='sum')))
