"""Registers the project's classes with MMDetection; configs name this module in `custom_imports`."""
from cellseg_mm.datasets import cell_dataset  # noqa: F401
from cellseg_mm.datasets.transforms import loading  # noqa: F401
from cellseg_mm.engine import amp, checkpoint_hook, seeding  # noqa: F401
from cellseg_mm.evaluation import cell_metric, submission  # noqa: F401
from cellseg_mm.models.backbones import timm_backbone  # noqa: F401
