# Mask2Former as MMDetection configures it.
from mmengine import Config

model = Config.fromstring("_base_ = 'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py'", '.py').model
del Config
