# YOLACT as MMDetection configures it.
from mmengine import Config

model = Config.fromstring("_base_ = 'mmdet::yolact/yolact_r50_1xb8-55e_coco.py'", '.py').model
del Config
