"""From images of any size to cells."""
from cellseg_mm.inference.predictor import Predictor

__all__ = ['Predictor']
