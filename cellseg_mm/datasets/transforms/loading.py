"""Loading of images into MMDetection's pipelines."""
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS

from cellseg_mm.io.image import read_image


@TRANSFORMS.register_module()
class LoadTiffImage(BaseTransform):
    """Load an image of any kind that microscopes write, as MMDetection expects it.

    Args:
        percentiles (tuple[float, float]): Of the intensities of uint16 and float images, which become 0 and 255.

    Required keys: `img_path`.

    Added keys: `img` (uint8 (H, W, 3) BGR), `img_shape` and `ori_shape` (height, width).

    Raises:
        CellDataError: If the file is missing or cannot be read as an image.
    """

    def __init__(self, percentiles=(0.1, 99.9)):
        self.percentiles = tuple(percentiles)

    def transform(self, results):
        image = read_image(results['img_path'], self.percentiles)
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def __repr__(self):
        return f'{type(self).__name__}(percentiles={self.percentiles})'
