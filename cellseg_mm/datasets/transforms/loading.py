"""Loading of images into MMDetection's pipelines."""
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS

from cellseg_mm.io.image import read_image


@TRANSFORMS.register_module()
class LoadTiffImage(BaseTransform):
    """Load an image of any kind that microscopes write, as MMDetection expects it.

    Required keys: `img_path`.

    Added keys: `img` (uint8 (H, W, 3) BGR), `img_shape` and `ori_shape` (height, width).

    Raises:
        CellDataError: If the file is missing or cannot be read as an image.
    """

    def transform(self, results):
        image = read_image(results['img_path'])
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def __repr__(self):
        return f'{type(self).__name__}()'
