"""Random crops of images of many cells."""
import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmdet.registry import TRANSFORMS

from cellseg_mm.datasets.transforms.checks import check_cells, check_share, check_size, check_weights, is_count
from cellseg_mm.errors import UserError


@TRANSFORMS.register_module()
class RandomCellCrop(BaseTransform):
    """Cut out a window of a fixed size, most often one that holds a cell.

    A cell is drawn, and the window uniformly from those that hold all of it; of a cell larger than the window, from
    those within its box. Where there is no cell to draw, the window may be anywhere. Of an image smaller than the
    window, all of that side is kept. Of cells at the border see `keep_visible`.

    Args:
        crop_size (tuple[int, int]): (width, height) of the window in pixels.
        min_visible (float): Share of its pixels, 0 to 1, that a cell needs in the window so as not to be ignored.
        class_weights (Sequence[float], optional): One for each class: how likely the cell is of it, relative to the
            other classes that the image has. If all are 1, a rare class is drawn as often as a frequent one of the same
            image; of 0, its cells are only seen beside others. By default each cell is as likely as any other.
        prob_anywhere (float): Share of windows, 0 to 1, that are drawn uniformly from all, for background to be seen.
        margin (int): Pixels that are kept beside the window on each of its sides, for a `RandomCellAffine` with this
            `crop_size` to turn in from, which it has to do with every image. What of them is outside the image has its
            mean colour, so that windows lie at the image's edge as often as without. A turn may take the cell out of
            the window that was drawn for it.

    Required keys: `img`, `gt_bboxes`, `gt_bboxes_labels`, `gt_ignore_flags`, `gt_masks` (LocalMasks).

    Modified keys: `img`, `img_shape`, `gt_bboxes` (tight around the masks), `gt_bboxes_labels`, `gt_ignore_flags`,
    `gt_masks`.

    Added keys: `homography_matrix`.

    Raises:
        UserError: If an argument is out of its range, a cell's class has no weight, there are no masks, or there is a
            semantic map, which would stay as it is.
    """

    def __init__(self, crop_size, min_visible=0.1, class_weights=None, prob_anywhere=0.1, margin=0):
        check_size('RandomCellCrop', crop_size)
        check_share('RandomCellCrop: min_visible', min_visible)
        check_share('RandomCellCrop: prob_anywhere', prob_anywhere)
        if class_weights is not None:
            class_weights = check_weights('RandomCellCrop', class_weights)
        if not is_count(margin):
            raise UserError(f'RandomCellCrop: margin is in whole pixels from 0 on, not {margin}')
        self.crop_size, self.margin = tuple(crop_size), margin
        self.min_visible, self.class_weights, self.prob_anywhere = min_visible, class_weights, prob_anywhere

    def transform(self, results):
        check_cells(self, results)
        height, width = results['img'].shape[:2]
        size = np.minimum(self.crop_size, (width, height))
        x, y = self._draw_corner(results, size, (width, height) - size)
        margin, masks = self.margin, results['gt_masks']
        right, lower = size + (x, y) + 2 * margin  # from here on of the image with the margin around it
        results['img'] = _window_of(results['img'], x - margin, y - margin, right - margin, lower - margin)
        results['img_shape'] = results['img'].shape[:2]
        masks = masks.expand(height + 2 * margin, width + 2 * margin, margin, margin)
        keep_visible(results, masks, [x, y, right, lower], self.min_visible)
        record_homography(results, [[1, 0, margin - x], [0, 1, margin - y], [0, 0, 1]])
        return results

    @cache_randomness
    def _draw_corner(self, results, size, last):
        """The window's corner (x, y), from (0, 0) to `last`."""
        first = np.zeros_like(last)
        weights = self._weights(results)
        if weights.any() and np.random.random() >= self.prob_anywhere:  # noqa: NPY002 -- MMDetection's source of chance
            cell = np.random.choice(len(weights), p=weights / weights.sum())  # noqa: NPY002
            start, side = np.split(results['gt_masks'].boxes[cell], 2)
            # From one end to the other, windows hold all of the cell or, smaller than it, nothing beside its box.
            ends = start, start + side - size
            first, last = np.maximum(np.minimum(*ends), first), np.minimum(np.maximum(*ends), last)
        return np.random.randint(first, last + 1)  # noqa: NPY002

    def _weights(self, results):
        """How likely each cell is drawn: float (N,), up to a factor."""
        drawable = ~results['gt_ignore_flags'] & (results['gt_masks'].areas > 0)
        if self.class_weights is None:
            return drawable.astype(float)
        labels = results['gt_bboxes_labels']
        if len(labels) and labels.max() >= len(self.class_weights):
            raise UserError(f'RandomCellCrop: class_weights has {len(self.class_weights)} numbers, and there is a cell '
                            f'of class {labels.max()}, counted from 0: give one for each class')
        counts = np.bincount(labels[drawable], minlength=len(self.class_weights))
        return self.class_weights[labels] * drawable / np.maximum(counts, 1)[labels]

    def __repr__(self):
        weights = None if self.class_weights is None else self.class_weights.tolist()
        return (f'{type(self).__name__}(crop_size={self.crop_size}, min_visible={self.min_visible}, '
                f'class_weights={weights}, prob_anywhere={self.prob_anywhere}, '
                f'margin={self.margin})')


def _window_of(image, x1, y1, x2, y2):
    """A window of an image, with the image's mean colour where it reaches outside."""
    height, width = image.shape[:2]
    left, top, right, lower = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    inside = image[top:lower, left:right]
    beside = top - y1, y2 - lower, left - x1, x2 - right
    if not any(beside):
        return inside
    return cv2.copyMakeBorder(inside, *map(int, beside), cv2.BORDER_CONSTANT, value=cv2.mean(image))


def keep_visible(results, masks, window, min_visible):
    """Cut the cells of an image to a window of it, and give them boxes that are tight around what is left.

    What has no pixel in the window is dropped. What keeps less than a share of its pixels (of those that it had before
    this step, not of the whole cell: of two steps in a row, each may cut off as much) becomes one of
    MMDetection's ignored instances: it is no cell to be found. Whether it is then background depends on the model. An
    assigner with an `ignore_iof_thr` above 0 leaves out the anchors and proposals that lie on the ignored box by that
    share, those of neighbours too; those of MMDetection's configs, and so of ours, have -1, and all models without a
    `MaxIoUAssigner` (RTMDet-Ins, SOLOv2, CondInst, QueryInst, Mask2Former) never look at ignored instances: there it
    is background. A small `min_visible` is therefore the truest: annotated images have cut cells at their borders too.

    Args:
        results (dict): Of a pipeline; its `gt_bboxes`, `gt_bboxes_labels`, `gt_ignore_flags` and `gt_masks` are set.
        masks (LocalMasks): N masks, uncut, in the order of `results`.
        window (Sequence[int]): x1, y1, x2, y2 in pixels of the masks' canvas, the latter two outside.
        min_visible (float): The share, 0 to 1; 0 ignores none.
    """
    visible = masks.crop(np.asarray(window))
    kept = visible.areas > 0
    ignored = results['gt_ignore_flags'] | (visible.areas < min_visible * masks.areas)
    results['gt_masks'] = visible[kept]
    results['gt_bboxes'] = results['gt_masks'].get_bboxes(type(results['gt_bboxes']))
    results['gt_bboxes_labels'] = results['gt_bboxes_labels'][kept]
    results['gt_ignore_flags'] = ignored[kept]


def record_homography(results, matrix):
    """Add a step, a (3, 3) matrix of coordinates in which the first pixel reaches from 0 to 1, as boxes have them."""
    matrix = np.asarray(matrix, np.float32)
    before = results.get('homography_matrix')
    results['homography_matrix'] = matrix if before is None else matrix @ before
