"""Registers the project's classes with MMDetection; configs name this module in `custom_imports`."""
from cellseg_mm.datasets import budget_sampler, cell_dataset  # noqa: F401
from cellseg_mm.datasets.transforms import affine, copy_paste, crop, loading, optics, stain  # noqa: F401
from cellseg_mm.engine import (  # noqa: F401
    amp,
    budget,
    checkpoint_hook,
    epoch_loss_hook,
    layer_decay,
    logger_hook,
    seeding,
)
from cellseg_mm.evaluation import cell_metric, submission  # noqa: F401
from cellseg_mm.models.backbones import timm_backbone  # noqa: F401
from cellseg_mm.models.dense_heads import (  # noqa: F401
    condinst_head,
    embedding_rpn_head,
    mask2former_head,
    rtmdet_ins_head,
    solov2_head,
    yolact_head,
)
from cellseg_mm.models.detectors import cell_detectors  # noqa: F401
from cellseg_mm.models.roi_heads import mask_heads, roi_heads, sparse_roi_head  # noqa: F401
from cellseg_mm.models.seg_heads import maskformer_fusion_head  # noqa: F401
from cellseg_mm.models.task_modules import local_max_iou_assigner, local_soft_label_assigner  # noqa: F401
from cellseg_mm.visualization import visualizer  # noqa: F401
