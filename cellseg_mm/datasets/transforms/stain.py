"""Variation of stains, as it is between slides, laboratories and scanners."""
import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmdet.registry import TRANSFORMS

from cellseg_mm.datasets.transforms.checks import check_image, check_share, is_number
from cellseg_mm.errors import UserError
from cellseg_mm.structures.stains import BLACK, STAINS

_TO_STAINS = np.linalg.inv(STAINS)
# Of the transmission. A value of 0 stands for all below 1/2, on average 1/4; taken for 1e-6 of white, as elsewhere, it
# would be so far from its neighbours that scaling makes specks.
_LOGARITHMS = np.log(np.maximum(np.arange(256, dtype=np.float32), 0.25) / 255)


@TRANSFORMS.register_module()
class StainJitter(BaseTransform):
    """Vary how strongly an H&E image is stained, stain by stain: 'HED augmentation'.

    As Tellez et al., 'Whole-slide mitosis detection in H&E breast histology using PHH3 as a reference to train
    distilled stain-invariant convolutional networks', IEEE Trans Med Imaging 37 (2018) 2126-2136: hematoxylin, eosin
    and the rest (Ruifrok and Johnston's DAB) are each scaled and shifted at random, in the unit of scikit-image's
    `rgb2hed` and of the tables' mean_hematoxylin. Scaling leaves white as it is; a shift tints it. Not for
    fluorescence or grey images, which have no stains: this would give them colours.

    Args:
        scale (float): Factors are drawn from 1 - scale to 1 + scale; 0 to 1.
        shift (float): Shifts are drawn from -shift to shift. 0.01 of eosin darkens the green of white to 0.87.

    Required and modified key: `img` (uint8 (H, W, 3) BGR).

    Raises:
        UserError: If one is out of its range or no finite number, or the image is of another kind.
    """

    def __init__(self, scale=0.2, shift=0.01):
        check_share('StainJitter: scale', scale)
        if not is_number(shift):
            raise UserError(f'StainJitter: shift={shift} has to be a number of 0 or more')
        self.scale, self.shift = scale, shift

    @cache_randomness
    def _draw(self):
        return np.random.uniform(-1, 1, (2, 3))  # noqa: NPY002 -- MMDetection's transforms draw from the global state

    def transform(self, results):
        check_image(self, results)
        scales, shifts = self._draw()
        results['img'] = restain(results['img'], 1 + self.scale * scales, self.shift * shifts)
        return results

    def __repr__(self):
        return f'{type(self).__name__}(scale={self.scale}, shift={self.shift})'


def restain(image, scales, shifts):
    """Scale and shift the stains of an image.

    Args:
        image (ndarray): uint8 (H, W, 3) BGR.
        scales (ndarray): (3,) factors of hematoxylin, eosin and the rest.
        shifts (ndarray): (3,) what is added to them then, in the unit of scikit-image's `rgb2hed`.

    Returns:
        ndarray: uint8 (H, W, 3) BGR.
    """
    # To stains, scaled, shifted and back is one affine map of the logarithms: of columns, and blue first.
    matrix = (_TO_STAINS * scales @ STAINS).T[::-1, ::-1]
    offset = np.log(BLACK) * (shifts @ STAINS)[::-1]
    logarithms = cv2.transform(cv2.LUT(image, _LOGARITHMS), np.column_stack([matrix, offset]))
    # Nothing is brighter than white: what is far above it would come out of the conversion as 0.
    return cv2.convertScaleAbs(cv2.exp(np.minimum(logarithms, 0, out=logarithms)), alpha=255)
