"""Loading of images and their cells into MMDetection's pipelines."""
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import TRANSFORMS

from cellseg_mm.errors import CellDataError
from cellseg_mm.io.image import read_image
from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.structures.rle import encode_segmentation


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


@TRANSFORMS.register_module()
class LoadCellAnnotations(LoadAnnotations):
    """Load boxes, labels and masks of the cells of an image, the masks as `LocalMasks`.

    Args:
        with_mask (bool): Whether to load masks.
        **kwargs: Of MMDetection's `LoadAnnotations`.

    Required keys: `ori_shape`, `img_path`, `instances` (`bbox`, `bbox_label`, `mask`, `ignore_flag`).

    Added keys: `gt_bboxes` (BaseBoxes, float32), `gt_bboxes_labels` (int64 (N,)), `gt_ignore_flags` (bool (N,)),
    `gt_masks` (LocalMasks).

    Raises:
        CellDataError: If a mask cannot be decoded, or is of another size than the image.
    """

    def __init__(self, with_mask=True, **kwargs):
        super().__init__(with_mask=with_mask, **kwargs)

    def _load_masks(self, results):
        height, width = results['ori_shape']
        instances = results['instances']
        try:
            rles = [_as_rle(instance['mask'], number, height, width) for number, instance in enumerate(instances)]
            results['gt_masks'] = LocalMasks.from_rles(rles, height, width)
        except ValueError as error:
            raise CellDataError(results['img_path'], f'of its {len(instances)} annotations, counted from 0: {error}',
                                'run tools/prepare_data.py again') from error


def _as_rle(mask, number, height, width):
    if not isinstance(mask, list):
        return mask  # decoded with all others at once
    try:
        return encode_segmentation(mask, height, width)
    except ValueError as error:
        raise ValueError(f'polygon {number}: {error}') from error
