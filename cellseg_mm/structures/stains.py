"""Colour deconvolution: what of an H&E image's optical density is of which stain."""
import numpy as np

# Ruifrok and Johnston, 'Quantification of histochemical staining by color deconvolution', Anal Quant Cytol Histol 23
# (2001) 291-299: red, green and blue of the optical density of hematoxylin, eosin and DAB.
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
# Black is as dense as a transmission of this, which counts as 1: the unit of scikit-image's `rgb2hed`.
BLACK = 1e-6
# Of the grey levels 0 to 255.
DENSITIES = np.log(np.maximum(np.arange(256) / 255, BLACK)) / np.log(BLACK)
