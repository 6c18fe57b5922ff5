"""Cells pasted into images, rare classes as often as frequent ones."""
from copy import deepcopy
from itertools import islice

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmdet.registry import TRANSFORMS
from mmengine.dataset import ClassBalancedDataset, RepeatDataset

from cellseg_mm.datasets.transforms.checks import check_cells, check_image, check_weights, is_count, is_number
from cellseg_mm.errors import UserError
from cellseg_mm.structures.local_masks import LocalMasks

# Of finding a place for a cell.
_TRIES = 30
# Free places of which the best is taken.
_COMPARED = 8


@TRANSFORMS.register_module()
class CellCopyPaste(BaseTransform):
    """Paste whole cells of other images and of the same one, turned or mirrored at random, at random free places.

    As Ghiasi et al., 'Simple copy-paste is a strong data augmentation method for instance segmentation', CVPR 2021,
    but cell by cell. A cell comes with the background around it, which fades into that of the place; other cells of
    either image are left out of it. MMDetection's `MultiImageMixDataset` brings the other images; without it an image
    is given more of its own cells. Put it behind what crops and resizes, but before `Pad` and `RandomCellAffine`, which
    move the image's edge inside, where cells that it cuts look whole.

    Args:
        max_cells (int): How many cells are pasted at most; the number is drawn from 0 up to this, and is no more than
            there are cells to draw from.
        images (int): How many other images bring cells. For each a class is drawn by its weight, of those that the data
            set has, then an image that has a cell of it which is not to be ignored. A crop before this need not show
            that cell; a `RandomCellCrop` with `class_weights` shows rare classes more often.
        class_weights (Sequence[float], optional): How often to paste each class of those at hand, relative to each
            other; by default all alike, which is to say rare ones far more often than they occur. Within a class, all
            cells are alike, and each may be pasted several times, every time turned and placed anew.
        margin (int): Up to how many pixels from a cell its surroundings are pasted with it.
        max_covered (float): The share that pasted cells may hide of any other, from 0, for free places only, to 1.
        match_color (bool): Whether to choose, of some free places, that whose colours are most like those around
            the cell, and to scale its light there so that the background around it has the mean of what it replaces,
            where more than half of what is around is background. Meant for bright field: in fluorescence, light adds.

    Required keys: `img` (uint8 (H, W, 3)), `gt_bboxes`, `gt_bboxes_labels`, `gt_ignore_flags`, `gt_masks`
    (LocalMasks); `mix_results`, where there are other images, of any size, with the same keys.

    Modified keys: `img`; and those of the cells. Pasted ones come last, boxes are tight, and cells of which nothing is
    left to be seen are gone.

    Raises:
        UserError: If an argument is outside its range, weights are not as many as classes, a data set does not tell
            the classes of its images, an image is of another kind, there are no masks, or there is a semantic map,
            which would stay as it is.
    """

    def __init__(self, max_cells=20, images=2, class_weights=None, margin=4, max_covered=0.0, match_color=True):
        if not (all(map(is_count, (max_cells, images, margin))) and is_number(max_covered) and max_covered <= 1):
            raise UserError(f'CellCopyPaste: max_cells={max_cells}, images={images} and margin={margin} have to be '
                            f'whole numbers of 0 or more, and max_covered={max_covered} from 0 to 1')
        if class_weights is not None:
            check_weights('CellCopyPaste', class_weights)
        self.max_cells, self.images, self.class_weights = max_cells, images, class_weights
        self.margin, self.max_covered, self.match_color = margin, max_covered, match_color
        self._listed = None, None  # a data set, and its images of each class: to list them takes long

    def get_indexes(self, dataset):
        """Draw the images that cells are taken from, as `MultiImageMixDataset` asks.

        Args:
            dataset (BaseDetDataset | RepeatDataset | ClassBalancedDataset): All its images are looked through once,
                which each data loading process does anew after it has started.

        Returns:
            list[int]: `images` indices, or none if no image has a class to paste.
        """
        if not self.images:
            return []
        if self._listed[0] is not dataset:
            self._listed = dataset, _images_of_classes(dataset)
        images = self._listed[1]
        if self.class_weights is not None and len(self.class_weights) > len(images):
            self._refuse_weights(len(images))
        weights = self._weights(len(images)) * [len(found) > 0 for found in images]
        if not weights.any():
            return []
        labels = np.random.choice(len(images), self.images, p=weights / weights.sum())  # noqa: NPY002 -- as MMDetection
        return [int(np.random.choice(images[label])) for label in labels]  # noqa: NPY002

    @cache_randomness
    def _draw(self, weights):
        """Cells, indices of weights (M,); their symmetries, 0 to 7; places to try, (M, _TRIES, 2) in [0, 1)."""
        count = min(np.random.randint(self.max_cells + 1), np.count_nonzero(weights))  # noqa: NPY002 -- as MMDetection
        cells = np.random.choice(  # noqa: NPY002
            len(weights), count, p=weights / weights.sum()) if count else np.zeros(0, int)
        return cells, np.random.randint(8, size=count), np.random.rand(count, _TRIES, 2)  # noqa: NPY002

    def transform(self, results):
        check_cells(self, results)
        sources = [results, *results.get('mix_results', [])]
        for source in sources:
            check_image(self, source)
        whole = [_whole_cells(source, self.margin) for source in sources]
        numbers = np.repeat(np.arange(len(sources)), [len(cells) for cells in whole])
        cells = np.concatenate(whole)
        labels = np.concatenate([source['gt_bboxes_labels'][chosen]
                                 for source, chosen in zip(sources, whole, strict=True)])
        counts = np.bincount(labels)
        weights = self._weights(len(counts))[labels] / counts[labels]

        occupied = [_occupied(source['gt_masks']) for source in sources]
        scene, pasted = _Scene(results, self.max_covered), []
        for chosen, symmetry, places in zip(*self._draw(weights), strict=True):
            number = numbers[chosen]
            cut = _cut(sources[number], occupied[number], cells[chosen], self.margin)
            patch, mask, others = (_turned(part, symmetry) for part in cut)
            if scene.paste(patch, mask, others, places, self.margin, self.match_color):
                pasted.append(chosen)

        masks = scene.masks()
        kept = masks.areas > 0
        flags = results['gt_ignore_flags']
        results['img'] = scene.image
        results['gt_masks'] = masks[kept]
        results['gt_bboxes'] = results['gt_masks'].get_bboxes(type(results['gt_bboxes']))
        results['gt_bboxes_labels'] = np.append(results['gt_bboxes_labels'], labels[pasted])[kept]
        results['gt_ignore_flags'] = np.append(flags, np.zeros(len(pasted), flags.dtype))[kept]
        return results

    def _weights(self, classes):
        if self.class_weights is None:
            return np.ones(classes)
        if len(self.class_weights) < classes:
            self._refuse_weights(classes)
        return np.array(self.class_weights[:classes], float)

    def _refuse_weights(self, classes):
        raise UserError(f'CellCopyPaste: the number of class_weights is {len(self.class_weights)}, that of classes '
                        f'{classes}; give each class one')

    def __repr__(self):
        return (f'{type(self).__name__}(max_cells={self.max_cells}, images={self.images}, class_weights='
                f'{self.class_weights}, margin={self.margin}, max_covered={self.max_covered}, match_color='
                f'{self.match_color})')


class _Scene:
    """An image that cells are pasted into, and its cells.

    Args:
        results (dict): With `img` and `gt_masks`, which stay as they are.
        max_covered (float): The share of a cell that others may hide.
    """

    def __init__(self, results, max_covered):
        masks = deepcopy(results['gt_masks'])
        self.image, self.occupied, self.max_covered = results['img'].copy(), _occupied(masks), max_covered
        self.boxes, self.crops, self.areas = masks.boxes, masks.crops(), masks.areas

    def paste(self, patch, mask, others, places, margin, match_color):
        """Paste a cell at the first place that is free for it, or at that of the most alike surroundings.

        Args:
            patch (ndarray): uint8 (h, w, 3), the cell and `margin` pixels around its box.
            mask (ndarray): bool (h, w), its pixels.
            others (ndarray): bool (h, w), those of other cells.
            places (ndarray): float (T, 2), from 0 for the left and upper edge of the image to 1.
            margin (int): Pixels.
            match_color (bool): Whether to look for alike surroundings, and to scale the light.

        Returns:
            bool: Whether it fits anywhere.
        """
        inner = mask[margin:mask.shape[0] - margin, margin:mask.shape[1] - margin]
        size = inner.shape[::-1]
        room = np.array(self.occupied.shape[::-1]) - size + 1
        if (room < 1).any():
            return False
        free = ((x, y) for x, y in (places * room).astype(int).tolist() if self._is_free(inner, x, y))
        distances = cv2.distanceTransform(np.uint8(~mask), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        weights = 0.5 + 0.5 * np.cos(np.pi * np.minimum(distances / (margin + 1), 1))
        around = ~mask & (weights > 0)
        if match_color and around.any():
            color = patch[around].mean(0)
            place = min(islice(free, _COMPARED), default=None,
                        key=lambda place: self._difference(color, around, place, margin))
        else:
            place = next(free, None)
        if place is None:
            return False
        self._blend(patch, weights, mask, others, place, margin, match_color)
        self._add(inner, *place)
        return True

    def masks(self):
        pixels = np.concatenate([bitmap.ravel() for *_, bitmap in self.crops] or [np.zeros(0, np.uint8)])
        return LocalMasks(pixels, self.boxes, *self.occupied.shape)

    def _is_free(self, mask, x, y):
        return not self._is_met(mask, x, y) or (self.max_covered > 0 and all(
            self.crops[i][2].sum() - part[hiding].sum() >= (1 - self.max_covered) * self.areas[i]
            for i, part, hiding in self._met(mask, x, y)))

    def _is_met(self, mask, x, y):
        height, width = mask.shape
        return (self.occupied[y:y + height, x:x + width] & mask).any()

    def _met(self, mask, x, y):
        """Each cell whose box meets the mask's: its index, and there its bitmap, as a view, and the mask."""
        height, width = mask.shape
        left, top, widths, heights = self.boxes.T
        for i in np.flatnonzero((left < x + width) & (left + widths > x) & (top < y + height) & (top + heights > y)):
            own_x, own_y, bitmap = self.crops[i]
            rows = slice(max(y, own_y), min(y + height, own_y + len(bitmap)))
            columns = slice(max(x, own_x), min(x + width, own_x + bitmap.shape[1]))
            yield (i, bitmap[_moved(rows, own_y), _moved(columns, own_x)], mask[_moved(rows, y), _moved(columns, x)])

    def _add(self, mask, x, y):
        height, width = mask.shape
        if self._is_met(mask, x, y):
            for _, part, hiding in self._met(mask, x, y):
                part[hiding] = 0
        self.occupied[y:y + height, x:x + width] |= mask
        self.boxes = np.append(self.boxes, np.int32([[x, y, width, height]]), axis=0)
        self.crops.append((x, y, mask.astype(np.uint8)))
        self.areas = np.append(self.areas, mask.sum())

    def _difference(self, color, around, place, margin):
        """How far the mean colour around a cell would be from another."""
        inside, window = self._windows(around, place, margin)
        return np.abs(cv2.mean(self.image[window], np.uint8(around[inside]))[:3] - color).sum()

    def _blend(self, patch, weights, mask, others, place, margin, match_color):
        inside, window = self._windows(mask, place, margin)
        patch, weights, mask, others = np.float32(patch[inside]), weights[inside], mask[inside], others[inside]
        around = ~mask & (weights > 0)
        background = around & ~others & ~self.occupied[window]
        weights = np.where(mask | background, weights, 0)
        below = np.float32(self.image[window])
        # Of a cell among cells, too little background is seen to say what its colours are.
        if match_color and background.sum() > around.sum() / 2:
            brighter = below[background].mean(0) / np.maximum(patch[background].mean(0), 1)
            patch = np.minimum(patch * brighter, 255)
        self.image[window] = np.rint(below + weights[..., None] * (patch - below))

    def _windows(self, patch, place, margin):
        """What of a patch lies inside the image where its cell is put at a place, and where that is."""
        x, y = place[0] - margin, place[1] - margin
        rows = slice(max(y, 0), min(y + len(patch), self.occupied.shape[0]))
        columns = slice(max(x, 0), min(x + patch.shape[1], self.occupied.shape[1]))
        return (_moved(rows, y), _moved(columns, x)), (rows, columns)


def _moved(span, start):
    """A slice as seen from a place."""
    return slice(span.start - start, span.stop - start)


def _images_of_classes(dataset):
    """For each class, the indices of images that have a cell of it which is not to be ignored."""
    labels = _labels(dataset)
    return [np.flatnonzero([label in found for found in labels])
            for label in range(len(dataset.metainfo['classes']))]


def _labels(dataset):
    """For each image, the set of labels of its cells that are not to be ignored."""
    if isinstance(dataset, (RepeatDataset, ClassBalancedDataset)):  # an image is slow to read, and repeated often
        labels = _labels(dataset.dataset)
        return [labels[dataset._get_ori_dataset_idx(index)] for index in range(len(dataset))]
    try:
        places, found = getattr(dataset, 'places', range(len(dataset))), {}
        for index, image in enumerate(places):
            if image not in found:
                found[image] = {cell['bbox_label'] for cell in dataset.get_data_info(index)['instances']
                                if not cell['ignore_flag']}
        return [found[image] for image in places]
    except (AttributeError, KeyError) as error:
        raise UserError(f'CellCopyPaste: {type(dataset).__name__} does not tell the classes of its images; use '
                        'CellDataset, or set images=0') from error


def _whole_cells(results, margin):
    """Indices, int (M,), of the cells that no edge of the image cuts, nor what is around them."""
    masks = results['gt_masks']
    low, high = masks.boxes[:, :2], masks.boxes[:, :2] + masks.boxes[:, 2:]
    margin = max(margin, 1)
    inside = (low >= margin).all(1) & (high <= np.subtract((masks.width, masks.height), margin)).all(1)
    return np.flatnonzero(inside & (masks.boxes[:, 2] > 0) & ~results['gt_ignore_flags'].astype(bool))


def _occupied(masks):
    """Where there is a cell: bool (H, W)."""
    return masks.to_label_map() > 0


def _cut(results, occupied, cell, margin):
    """A cell out of its image: pixels (h, w, 3), and bool (h, w) what of them it is and what other cells are."""
    x, y, width, height = results['gt_masks'].boxes[cell].tolist()
    window = slice(y - margin, y + height + margin), slice(x - margin, x + width + margin)
    mask = np.pad(results['gt_masks'][[cell]].pixels.reshape(height, width), margin).astype(bool)
    return results['img'][window], mask, occupied[window] & ~mask


def _turned(array, symmetry):
    """One of the eight symmetries of the square."""
    turned = np.rot90(array, symmetry % 4)
    return turned[:, ::-1] if symmetry >= 4 else turned
