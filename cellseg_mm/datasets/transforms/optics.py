"""Mild flaws of images: out of focus, or compressed."""
import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmdet.registry import TRANSFORMS

from cellseg_mm.errors import UserError


@TRANSFORMS.register_module()
class RandomBlur(BaseTransform):
    """Blur an image by a Gaussian now and then, as if it were a little out of focus.

    Args:
        sigma (tuple[float, float]): Range of the Gaussian's standard deviation, in pixels, above 0.
        prob (float): Of an image being blurred.

    Required and modified key: `img` (uint8 (H, W, 3)).

    Raises:
        UserError: If the range is none.
    """

    def __init__(self, sigma=(0.3, 1.2), prob=0.3):
        if not 0 < sigma[0] <= sigma[1]:
            raise UserError(f'RandomBlur: sigma={tuple(sigma)} has to be a range above 0, the lower first')
        self.sigma, self.prob = tuple(sigma), prob

    @cache_randomness
    def _draw(self):
        return np.random.rand() < self.prob, np.random.uniform(*self.sigma)  # noqa: NPY002 -- as MMDetection

    def transform(self, results):
        chosen, sigma = self._draw()
        if chosen:
            results['img'] = cv2.GaussianBlur(results['img'], (0, 0), sigma)
        return results

    def __repr__(self):
        return f'{type(self).__name__}(sigma={self.sigma}, prob={self.prob})'


@TRANSFORMS.register_module()
class RandomJPEG(BaseTransform):
    """Compress an image as JPEG now and then, as scanners do.

    Args:
        quality (tuple[int, int]): Range of the quality, from 0 to 100, both ends included.
        prob (float): Of an image being compressed.

    Required and modified key: `img` (uint8 (H, W, 3) BGR).

    Raises:
        UserError: If the range is none.
    """

    def __init__(self, quality=(50, 95), prob=0.3):
        if not 0 <= quality[0] <= quality[1] <= 100:
            raise UserError(f'RandomJPEG: quality={tuple(quality)} has to be a range in 0 to 100, the lower first')
        self.quality, self.prob = tuple(quality), prob

    @cache_randomness
    def _draw(self):
        low, high = self.quality
        return np.random.rand() < self.prob, np.random.randint(low, high + 1)  # noqa: NPY002 -- as MMDetection

    def transform(self, results):
        chosen, quality = self._draw()
        if chosen:
            _, data = cv2.imencode('.jpg', results['img'], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
            results['img'] = cv2.imdecode(data, cv2.IMREAD_COLOR)
        return results

    def __repr__(self):
        return f'{type(self).__name__}(quality={self.quality}, prob={self.prob})'
