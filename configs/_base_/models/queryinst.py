# QueryInst as MMDetection configures it.
from mmengine import Config

model = Config.fromstring("_base_ = 'mmdet::queryinst/queryinst_r50_fpn_1x_coco.py'", '.py').model
del Config
