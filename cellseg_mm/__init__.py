"""Cell instance segmentation with MMDetection."""
from cellseg_mm import ops

__version__ = '0.1.0'

ops.install()
