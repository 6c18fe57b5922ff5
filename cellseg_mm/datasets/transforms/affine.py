"""Random turns, mirror images and distortions of images of many cells."""
import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmdet.registry import TRANSFORMS

from cellseg_mm.datasets.transforms.checks import check_cells, check_share, check_size, is_number, is_range
from cellseg_mm.datasets.transforms.crop import keep_visible, record_homography
from cellseg_mm.errors import UserError


@TRANSFORMS.register_module()
class RandomQuarterTurn(BaseTransform):
    """Turn the image by quarters and mirror it: each of the 8 ways to lay a square on itself is equally likely.

    Cells have no up and no left. No pixel is interpolated; height and width change places where the turn says so.

    Required keys: `img`, `gt_bboxes`, `gt_masks` (LocalMasks).

    Modified keys: `img`, `img_shape`, `gt_bboxes`, `gt_masks`.

    Added keys: `homography_matrix`.

    Raises:
        UserError: If there are no masks, or there is a semantic map, which would stay as it is.
    """

    def transform(self, results):
        check_cells(self, results)
        quarters, mirrored = self._draw()
        image, masks = results['img'], results['gt_masks']
        height, width = image.shape[:2]
        matrix = np.eye(3)
        if mirrored:
            image, masks = image[:, ::-1], masks.flip()
            matrix = np.float64([[-1, 0, width], [0, 1, 0], [0, 0, 1]])
        for _ in range(quarters):
            matrix = [[0, 1, 0], [-1, 0, width], [0, 0, 1]] @ matrix
            height, width = width, height
        results['img'] = np.rot90(image, quarters).copy()  # torch takes no negative strides, which 1 pixel may keep
        results['img_shape'] = height, width
        results['gt_masks'] = masks.rot90(quarters)
        results['gt_bboxes'].project_(matrix)
        record_homography(results, matrix)
        return results

    @cache_randomness
    def _draw(self):
        """Quarters to turn counter-clockwise, and whether to mirror left to right before."""
        return divmod(np.random.randint(8), 2)  # noqa: NPY002 -- MMDetection's source of chance

    def __repr__(self):
        return f'{type(self).__name__}()'


@TRANSFORMS.register_module()
class RandomCellAffine(BaseTransform):
    """Turn, scale, shear and move an image on its canvas, each by a random amount.

    What comes in from outside has the image's mean colour, and no cell. The masks are warped with the image, and the
    boxes are those of the masks: the box of a turned box would be too large. Of cells at the border see `keep_visible`.

    Args:
        max_rotation (float): Degrees; the turn is uniform up to it, either way, around the middle.
        scale_range (tuple[float, float]): The least and the largest factor, as likely below their geometric mean as
            above.
        max_shear (float): Degrees below 45; the slant of rows and, separately, of columns is uniform up to it, either
            way.
        max_translation (float): Share of width and of height, 0 to 1; the shift is uniform up to it, either way.
        min_visible (float): Share of its pixels, 0 to 1, that a cell needs on the canvas so as not to be ignored.
        crop_size (tuple[int, int], optional): (width, height), in pixels, of the middle of the canvas, which alone is
            kept. Behind a crop twice as large, divided by the least factor, nothing comes in from outside at any angle
            with the default shear and translation; without either, 1.5 times is enough. Let a `RandomCellCrop` of this
            `crop_size` keep the difference as a `margin`, half of it a side: a larger crop that ends at the image's
            edge would never show what is nearer to it than that.
        prob (float): Share of images, 0 to 1, that are turned; of the others the middle is kept as it is. (MMCV's
            `RandomApply` would leave them at another size.)

    Required keys: `img`, `gt_bboxes`, `gt_bboxes_labels`, `gt_ignore_flags`, `gt_masks` (LocalMasks).

    Modified keys: `img`, `img_shape`, `gt_bboxes` (tight around the masks), `gt_bboxes_labels`, `gt_ignore_flags`,
    `gt_masks`.

    Added keys: `homography_matrix`.

    Raises:
        UserError: If an argument is out of its range, there are no masks, or there is a semantic map, which would stay
            as it is.
    """

    def __init__(self, max_rotation=15, scale_range=(0.8, 1.25), max_shear=5, max_translation=0.05, min_visible=0.1,
                 crop_size=None, prob=1.0):
        if not (is_number(max_rotation) and is_number(max_shear) and max_shear < 45):
            raise UserError('RandomCellAffine: max_rotation is in degrees from 0 on, max_shear from 0 to below 45, not '
                            f'{max_rotation} and {max_shear}')
        if not (is_range(scale_range) and scale_range[0] > 0):
            raise UserError(f'RandomCellAffine: scale_range is (least, largest), both above 0, not {scale_range}')
        check_share('RandomCellAffine: max_translation', max_translation)
        check_share('RandomCellAffine: min_visible', min_visible)
        check_share('RandomCellAffine: prob', prob)
        self.max_rotation, self.scale_range, self.max_shear = max_rotation, tuple(scale_range), max_shear
        if crop_size is not None:
            check_size('RandomCellAffine', crop_size)
        self.max_translation, self.min_visible = max_translation, min_visible
        self.crop_size, self.prob = crop_size, prob

    def transform(self, results):
        check_cells(self, results)
        image = results['img']
        height, width = image.shape[:2]
        matrix = self._draw_matrix(height, width)
        warp = matrix[:2].copy()
        warp[:, 2] += warp[:, :2] @ (0.5, 0.5) - 0.5  # OpenCV counts from the centre of the first pixel
        masks, window = _warp_uncut(results['gt_masks'], warp)
        size = np.minimum(self.crop_size or (width, height), (width, height))
        corner = ((width, height) - size) // 2
        warp[:, 2] -= corner
        window[:2] += corner
        window[2:] = window[:2] + size
        results['img'] = cv2.warpAffine(image, warp, size.tolist(), borderValue=cv2.mean(image))
        results['img_shape'] = results['img'].shape[:2]
        keep_visible(results, masks, window, self.min_visible)
        record_homography(results, [[1, 0, -corner[0]], [0, 1, -corner[1]], [0, 0, 1]] @ matrix)
        return results

    @cache_randomness
    def _draw_matrix(self, height, width):
        """A (3, 3) matrix of coordinates in which the first pixel reaches from 0 to 1."""
        if self.prob < 1 and np.random.random() >= self.prob:  # noqa: NPY002 -- MMDetection's source of chance
            return np.eye(3)
        turn, *slants = np.radians(
            np.random.uniform(-1, 1, 3) * (self.max_rotation, self.max_shear, self.max_shear))  # noqa: NPY002
        scale = np.exp(np.random.uniform(*np.log(self.scale_range)))  # noqa: NPY002
        shift = np.random.uniform(-1, 1, 2) * self.max_translation * (width, height)  # noqa: NPY002
        rotation = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        shear = [[1, np.tan(slants[0])], [np.tan(slants[1]), 1]]
        linear, middle = scale * np.dot(shear, rotation), np.divide([width, height], 2)
        matrix = np.eye(3)
        matrix[:2, :2], matrix[:2, 2] = linear, middle + shift - linear @ middle
        return matrix

    def __repr__(self):
        return (f'{type(self).__name__}(max_rotation={self.max_rotation}, scale_range={self.scale_range}, '
                f'max_shear={self.max_shear}, max_translation={self.max_translation}, '
                f'min_visible={self.min_visible}, crop_size={self.crop_size}, prob={self.prob})')


def _warp_uncut(masks, warp):
    """Warp masks on a canvas so large that none is cut.

    Args:
        masks (LocalMasks): N masks.
        warp (ndarray): float (2, 3), from and to centres of pixels.

    Returns:
        tuple[LocalMasks, ndarray]: The masks on the large canvas, and x1, y1, x2, y2 of the former canvas in it.
    """
    size = np.int64([masks.width, masks.height])
    corners = warp[:, :2] @ [[-1, -1, size[0], size[0]], [-1, size[1], -1, size[1]]] + warp[:, 2:]
    first = np.minimum(np.floor(corners.min(1)).astype(int), 0)
    last = np.maximum(np.ceil(corners.max(1)).astype(int) + 1, size)
    width, height = (last - first).tolist()
    left, top = (-first).tolist()
    moved = warp.copy()
    moved[:, 2] += warp[:, :2] @ first - first
    masks = masks.expand(height, width, top, left).warp(moved)
    return masks, np.concatenate([-first, size - first])
