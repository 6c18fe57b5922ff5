# RTMDet-Ins as MMDetection configures it.
from mmengine import Config

model = Config.fromstring("_base_ = 'mmdet::rtmdet/rtmdet-ins_l_8xb32-300e_coco.py'", '.py').model
del Config
