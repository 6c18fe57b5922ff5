"""Mild flaws of images: out of focus, or compressed. MMCV's `RandomApply` leaves some images as they are."""
import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmdet.registry import TRANSFORMS

from cellseg_mm.datasets.transforms.checks import check_image, is_count, is_range
from cellseg_mm.errors import UserError


@TRANSFORMS.register_module()
class RandomBlur(BaseTransform):
    """Blur an image by a Gaussian, as if it were a little out of focus.

    Args:
        sigma (tuple[float, float]): Range of the Gaussian's standard deviation, in pixels, above 0.

    Required and modified key: `img` (uint8 (H, W, 3)).

    Raises:
        UserError: If the range is none.
    """

    def __init__(self, sigma=(0.3, 1.2)):
        if not (is_range(sigma) and sigma[0] > 0):
            raise UserError(f'RandomBlur: sigma={sigma} has to be a range above 0, the lower first')
        self.sigma = tuple(sigma)

    @cache_randomness
    def _draw(self):
        return np.random.uniform(*self.sigma)  # noqa: NPY002 -- as MMDetection

    def transform(self, results):
        results['img'] = cv2.GaussianBlur(results['img'], (0, 0), self._draw())
        return results

    def __repr__(self):
        return f'{type(self).__name__}(sigma={self.sigma})'


@TRANSFORMS.register_module()
class RandomJPEG(BaseTransform):
    """Compress an image as JPEG, as scanners do.

    Args:
        quality (tuple[int, int]): Range of the quality, from 0 to 100, both ends included.

    Required and modified key: `img` (uint8 (H, W, 3) BGR).

    Raises:
        UserError: If the range is none, or the image is of another kind.
    """

    def __init__(self, quality=(50, 95)):
        if not (is_range(quality) and all(map(is_count, quality)) and quality[1] <= 100):
            raise UserError(f'RandomJPEG: quality={quality} has to be a range of whole numbers in 0 to 100, the lower '
                            'first')
        self.quality = tuple(quality)

    @cache_randomness
    def _draw(self):
        low, high = self.quality
        return int(np.random.randint(low, high + 1))  # noqa: NPY002 -- as MMDetection

    def transform(self, results):
        check_image(self, results)
        _, data = cv2.imencode('.jpg', results['img'], [cv2.IMWRITE_JPEG_QUALITY, self._draw()])
        results['img'] = cv2.imdecode(data, cv2.IMREAD_COLOR)
        return results

    def __repr__(self):
        return f'{type(self).__name__}(quality={self.quality})'
