"""Registers the project's classes with MMDetection; configs name this module in `custom_imports`."""
from cellseg_mm.datasets import cell_dataset  # noqa: F401
from cellseg_mm.datasets.transforms import loading  # noqa: F401
from cellseg_mm.engine import amp, checkpoint_hook, epoch_loss_hook, seeding  # noqa: F401
from cellseg_mm.evaluation import cell_metric, submission  # noqa: F401
from cellseg_mm.models.backbones import timm_backbone  # noqa: F401
from cellseg_mm.models.detectors import cell_detectors  # noqa: F401
from cellseg_mm.models.roi_heads import mask_heads  # noqa: F401
from cellseg_mm.models.task_modules import local_max_iou_assigner  # noqa: F401
from cellseg_mm.visualization import visualizer  # noqa: F401
