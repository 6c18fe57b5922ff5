# CondInst as MMDetection configures it.
from mmengine import Config

model = Config.fromstring("_base_ = 'mmdet::condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py'", '.py').model
del Config
