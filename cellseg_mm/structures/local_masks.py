"""Instance masks as small bitmaps, each with its box: what the whole project speaks."""
import cv2
import mmcv
import numpy as np
import torch
from mmcv.image.geometric import cv2_interp_codes
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmdet.structures.mask.structures import BaseInstanceMasks
from mmdet.utils.util_random import ensure_rng

from cellseg_mm.errors import UserError
from cellseg_mm.structures import bitmaps, rle, roi_crop

# Pixels of full canvases that are copied in one go.
_CHUNK = 2**25


class LocalMasks(BaseInstanceMasks):
    """Masks of N instances on a canvas of (height, width), each kept as a bitmap of its own box.

    It does what MMDetection's `BitmapMasks` does, and wherever that neither interpolates nor averages, with the same
    result bit for bit; memory and time grow with the area of the instances instead of instances x canvas. Instances
    may overlap, be disconnected, or be empty. It is not meant to be changed in place.

    Args:
        pixels (ndarray): (P,) the bitmaps, row by row, one after another; what is not 0 is set.
        boxes (ndarray): int (N, 4) of x, y, width and height of each bitmap, in pixels; they need not be tight.
        height (int): Rows of the canvas.
        width (int): Columns of the canvas.

    Attributes:
        pixels (ndarray): uint8 (P,) of 0 and 1, within the tight boxes.
        boxes (ndarray): int32 (N, 4), tight; all zero for an empty instance.
        offsets (ndarray): int64 (N + 1,), bitmap i is `pixels[offsets[i]:offsets[i + 1]]`.
        height (int): Rows of the canvas.
        width (int): Columns of the canvas.

    Raises:
        ValueError: If boxes are not int (N, 4), one reaches outside the canvas, or pixels and boxes do not fit each
            other.
    """

    def __init__(self, pixels, boxes, height, width):
        boxes = np.asarray(boxes)
        boxes = boxes if boxes.size else np.zeros((0, 4), np.int64)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in 'iu':
            raise ValueError(f'boxes are {boxes.dtype} of the shape {boxes.shape}, not int (N, 4)')
        boxes = boxes.astype(np.int64)
        outside = (boxes < 0).any(1) | (boxes[:, 2:] > (width, height) - boxes[:, :2]).any(1)
        if outside.any():
            first = int(outside.argmax())
            raise ValueError(f'the box {boxes[first].tolist()} (x, y, width, height) of instance {first} reaches '
                             f'outside the canvas of {height} x {width} pixels')
        boxes = np.ascontiguousarray(boxes, np.int32)
        pixels = np.not_equal(pixels, 0).view(np.uint8).ravel()
        if len(pixels) != (size := bitmaps.offsets_of(boxes)[-1]):
            raise ValueError(f'there are {len(pixels)} pixels for boxes of {size}')
        self._keep(*bitmaps.tighten(pixels, boxes), height, width)

    def _keep(self, pixels, boxes, height, width):
        self.pixels, self.boxes, self.offsets = pixels, boxes, bitmaps.offsets_of(boxes)
        self.height, self.width = int(height), int(width)

    @classmethod
    def _tight(cls, pixels, boxes, height, width):
        """Without checks, for what our own functions made in boxes that are tight."""
        masks = cls.__new__(cls)
        masks._keep(pixels, boxes, height, width)
        return masks

    @classmethod
    def _of(cls, pixels, boxes, height, width):
        """Without checks, for what our own functions made."""
        return cls._tight(*bitmaps.tighten(pixels, boxes), height, width)

    @classmethod
    def empty(cls, height, width):
        """No instance on a canvas of (height, width)."""
        return cls._tight(np.zeros(0, np.uint8), np.zeros((0, 4), np.int32), height, width)

    @classmethod
    def from_rles(cls, rles, height, width):
        """Masks of COCO RLEs.

        Args:
            rles (list[dict]): N times `size` [H, W] and `counts`, as text, bytes or a list of run lengths.
            height (int): Rows of the canvas.
            width (int): Columns of the canvas.

        Raises:
            ValueError: If one is of another size, or its counts cannot be decoded or do not add up to that size; the
                message has its index.
        """
        return cls._tight(*rle.decode(rles, height, width), height, width)

    def to_rles(self):
        """COCO RLEs.

        Returns:
            list[dict]: N times {'size': [H, W], 'counts': bytes}, byte for byte what pycocotools makes of the masks.
        """
        return rle.encode(self.pixels, self.boxes, self.height, self.width)

    @classmethod
    def from_label_map(cls, labels):
        """Masks of the instances of a label map, in ascending order of their ids.

        Args:
            labels (ndarray): int (H, W), 0 is background; ids may have gaps and be of any size.
        """
        return cls._tight(*bitmaps.label_map_bitmaps(labels), *labels.shape)

    def to_label_map(self):
        """Label map: int32 (H, W), i + 1 where instance i is, 0 elsewhere; where instances overlap, the later one."""
        return bitmaps.paint(self.pixels, self.boxes, self.height, self.width)[0]

    @classmethod
    def from_bitmaps(cls, masks):
        """Masks of full canvases.

        Args:
            masks (ndarray | Tensor): (N, H, W), on any device; what is not 0 is set.
        """
        count, height, width = masks.shape
        step = max(_CHUNK // max(height * width, 1), 1)
        parts = [cls.empty(height, width)]
        for start in range(0, count, step):
            chunk = masks[start:start + step]
            if isinstance(chunk, torch.Tensor):
                chunk = chunk.bool().cpu().numpy()
            chunk = np.ascontiguousarray(chunk, bool)
            whole = np.tile(np.int32([0, 0, width, height]), (len(chunk), 1))
            parts.append(cls._of(chunk.view(np.uint8).ravel(), whole, height, width))
        return cls.cat(parts)

    def crops(self):
        """Each instance as (x, y, bitmap): its upper left pixel, and a view of uint8 (h, w)."""
        return [(x, y, self.pixels[start:start + w * h].reshape(h, w))
                for (x, y, w, h), start in zip(self.boxes.tolist(), self.offsets.tolist(), strict=False)]

    def __len__(self):
        return len(self.boxes)

    def __repr__(self):
        return f'{type(self).__name__}(num_masks={len(self)}, height={self.height}, width={self.width})'

    def __iter__(self):
        """One full canvas after another, as `BitmapMasks` does: uint8 (H, W)."""
        for crop in self.crops():
            canvas = np.zeros((self.height, self.width), np.uint8)
            _draw(canvas, *crop)
            yield canvas

    def __getitem__(self, index):
        """Some of the instances, always as `LocalMasks`.

        Args:
            index (int | slice | list | ndarray | Tensor): Of instances; lists, arrays and tensors of int or bool.
        """
        if isinstance(index, torch.Tensor):
            index = index.cpu().numpy()
        elif isinstance(index, list):
            index = np.array(index, np.int64 if not index else None)
        indices = np.ascontiguousarray(np.arange(len(self))[index])  # also makes an array of one number
        boxes = self.boxes[indices]
        pixels = bitmaps.take(self.pixels, self.offsets, indices, bitmaps.offsets_of(boxes))
        return self._tight(pixels, boxes, self.height, self.width)

    @property
    def masks(self):
        """No such array: what reaches for it would build every canvas, or change the masks in place."""
        raise _NoCanvasError(
            "LocalMasks have no array 'masks' of full canvases, which MMDetection's CopyPaste, RandomErasing, Albu and "
            'some others change in place: leave these out of the pipeline')

    @property
    def areas(self):
        """Pixels of each instance: int64 (N,)."""
        return bitmaps.areas_of(self.pixels, self.offsets)

    def get_bboxes(self, dst_type='hbox'):
        """Tight boxes.

        Args:
            dst_type (str | type): One of MMDetection's box types; its own default, 'hbb', is none of them.

        Returns:
            BaseBoxes: N boxes; (0, 0, 0, 0) for an empty instance.
        """
        corners = self.boxes.astype(np.float32)
        corners[:, 2:] += corners[:, :2]
        return HorizontalBoxes(corners).convert_to(dst_type)

    def to_ndarray(self):
        """Full canvases: uint8 (N, H, W). This is the array that all else avoids."""
        canvases = np.zeros((len(self), self.height, self.width), np.uint8)
        for canvas, crop in zip(canvases, self.crops(), strict=True):
            _draw(canvas, *crop)
        return canvases

    def to_tensor(self, dtype, device):
        """Full canvases as a tensor (N, H, W)."""
        return torch.from_numpy(self.to_ndarray()).to(device).to(dtype)

    def rescale(self, scale, interpolation='nearest'):
        """Resize, keeping the aspect ratio.

        Args:
            scale (float | tuple[int]): The factor, or the largest allowed (long side, short side).
            interpolation (str): 'nearest'; any other would leave masks that are not binary.
        """
        width, height = mmcv.rescale_size((self.width, self.height), scale)
        return self.resize((height, width), interpolation)

    def resize(self, out_shape, interpolation='nearest'):
        """Resize to `out_shape`, (height, width); `interpolation` can only be 'nearest'."""
        if interpolation != 'nearest':
            raise ValueError(f"LocalMasks are resized by 'nearest', not by '{interpolation}'")
        height, width = out_shape
        columns, rows = _nearest(self.width, width), _nearest(self.height, height)
        windows = np.empty_like(self.boxes)
        for axis, places in enumerate((columns, rows)):
            start = self.boxes[:, axis]
            windows[:, axis] = np.searchsorted(places, start)
            windows[:, 2 + axis] = np.searchsorted(places, start + self.boxes[:, 2 + axis]) - windows[:, axis]
        pixels = bitmaps.sample(self.pixels, self.boxes, self.offsets, rows, columns, windows,
                                bitmaps.offsets_of(windows))
        return self._of(pixels, windows, height, width)

    def flip(self, flip_direction='horizontal'):
        """Flip, 'horizontal', 'vertical' or 'diagonal' (both)."""
        if flip_direction not in ('horizontal', 'vertical', 'diagonal'):
            raise ValueError(f"the flip direction is 'horizontal', 'vertical' or 'diagonal', not '{flip_direction}'")
        return self._turn(flip_direction != 'vertical', flip_direction != 'horizontal', transpose=False)

    def rot90(self, k=1):
        """Turn by k quarters counter-clockwise, as `numpy.rot90` turns an image."""
        flip_x, flip_y, transpose = [(False, False, False), (True, False, True), (True, True, False),
                                     (False, True, True)][k % 4]
        return self._turn(flip_x, flip_y, transpose)

    def _turn(self, flip_x, flip_y, transpose):
        boxes = self.boxes.copy()
        for axis, (flipped, side) in enumerate(((flip_x, self.width), (flip_y, self.height))):
            if flipped:
                boxes[:, axis] = side - boxes[:, axis] - boxes[:, 2 + axis]
        boxes[self.boxes[:, 2] == 0] = 0
        canvas = self.height, self.width
        if transpose:
            boxes, canvas = np.ascontiguousarray(boxes[:, [1, 0, 3, 2]]), canvas[::-1]
        pixels = bitmaps.turn(self.pixels, self.boxes, self.offsets, flip_x, flip_y, transpose)
        return self._tight(pixels, boxes, *canvas)

    def _window(self, x, y, height, width):
        """What a window of (height, width), its corner at (x, y), shows; it may reach outside the canvas."""
        start = np.maximum(self.boxes[:, :2], (x, y))
        stop = np.minimum(self.boxes[:, :2] + self.boxes[:, 2:], (x + width, y + height))
        windows = np.concatenate([start, np.maximum(stop - start, 0)], axis=1).astype(np.int32)
        windows[(windows[:, 2:] == 0).any(1)] = 0
        moved = windows - np.int32([x, y, 0, 0])
        moved[windows[:, 2] == 0] = 0
        if np.array_equal(windows, self.boxes):
            return self._tight(self.pixels, moved, height, width)
        pixels = bitmaps.cut(self.pixels, self.boxes, self.offsets, windows, bitmaps.offsets_of(windows))
        return self._of(pixels, moved, height, width)

    def pad(self, out_shape, pad_val=0):
        """Enlarge the canvas to `out_shape`, (height, width), at its right and lower edge; `pad_val` can only be 0."""
        if pad_val != 0:
            raise ValueError(f'LocalMasks are padded with 0, not with {pad_val}')
        if out_shape[0] < self.height or out_shape[1] < self.width:
            raise ValueError(f'a canvas of {self.height} x {self.width} cannot be padded to {tuple(out_shape)}')
        return self._window(0, 0, *out_shape)

    def crop(self, bbox):
        """Crop.

        Args:
            bbox (ndarray): int (4,), x1, y1, x2, y2 in pixels, the latter two outside; clipped to the canvas.
        """
        if not np.issubdtype(bbox.dtype, np.integer) or bbox.shape != (4,):
            raise ValueError('the box to crop is x1, y1, x2, y2 in whole pixels')
        (x1, x2), (y1, y2) = np.clip(bbox[0::2], 0, self.width), np.clip(bbox[1::2], 0, self.height)
        return self._window(x1, y1, int(max(y2 - y1, 1)), int(max(x2 - x1, 1)))

    def expand(self, expanded_h, expanded_w, top, left):
        """Put the canvas on a larger one of (`expanded_h`, `expanded_w`), its corner at (`top`, `left`)."""
        if top < 0 or left < 0 or top + self.height > expanded_h or left + self.width > expanded_w:
            raise ValueError(f'a canvas of {self.height} x {self.width} at row {top}, column {left} does not fit '
                             f'into {expanded_h} x {expanded_w}')
        return self._window(-left, -top, expanded_h, expanded_w)

    def crop_and_resize(self, bboxes, out_shape, inds, device='cpu', interpolation='bilinear', binarize=True):  # noqa: ARG002
        """Masks of instances within boxes, averaged to a fixed size as RoIAlign does: what mask heads learn.

        Args:
            bboxes (ndarray | Tensor): (K, 4) of x1, y1, x2, y2 in pixels, on any device.
            out_shape (tuple[int]): (height, width) of each result.
            inds (ndarray | Tensor): int (K,), the instance that each box is for.
            device (str | torch.device): Not used: the work is done on the CPU, sooner than canvases are moved.
            interpolation (str): 'bilinear', the only one there is.
            binarize (bool): Whether to set what is covered by half or more.

        Returns:
            BitmapMasks: K masks of `out_shape`, of bool, or of the float share that is covered: canvases as small as
                their instances.
        """
        bboxes, inds = (value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
                        for value in (bboxes, inds))
        covered = roi_crop.crop_and_resize(
            self.pixels, self.boxes, bboxes, inds, self.height, self.width, tuple(out_shape))
        return BitmapMasks(covered >= 0.5 if binarize else covered, *out_shape)

    def translate(self, out_shape, offset, direction='horizontal', border_value=0, interpolation='bilinear'):
        """Move, on a canvas that first takes the shape `out_shape`.

        Args:
            out_shape (tuple[int]): (height, width).
            offset (float | tuple[float]): By how many pixels; (horizontal, vertical) for 'both'.
            direction (str): 'horizontal', 'vertical' or 'both'.
            border_value (int): 0, the only one that leaves the masks what they are.
            interpolation (str): Of offsets that are not whole; what comes out at half or more is set.
        """
        if direction not in ('horizontal', 'vertical', 'both'):
            raise ValueError(f"masks are moved 'horizontal', 'vertical' or 'both', not '{direction}'")
        dx, dy = {'horizontal': (offset, 0), 'vertical': (0, offset), 'both': offset}[direction]
        masks = self._window(0, 0, *out_shape)
        _check_border(border_value)
        if dx == int(dx) and dy == int(dy):
            return masks._window(-int(dx), -int(dy), *out_shape)
        return masks.warp(np.float64([[1, 0, dx], [0, 1, dy]]), interpolation)

    def shear(self, out_shape, magnitude, direction='horizontal', border_value=0, interpolation='bilinear'):
        """Shear by `magnitude` pixels a pixel, 'horizontal' or 'vertical'; `out_shape` is that of the canvas."""
        self._check_shape(out_shape)
        if direction not in ('horizontal', 'vertical'):
            raise ValueError(f"masks are sheared 'horizontal' or 'vertical', not '{direction}'")
        matrix = {'horizontal': [[1, magnitude, 0], [0, 1, 0]], 'vertical': [[1, 0, 0], [magnitude, 1, 0]]}[direction]
        _check_border(border_value)
        return self.warp(np.float64(matrix), interpolation)

    def rotate(self, out_shape, angle, center=None, scale=1.0, border_value=0, interpolation='bilinear'):
        """Rotate as `mmcv.imrotate` does.

        Args:
            out_shape (tuple[int]): That of the canvas.
            angle (float): Degrees, clockwise where positive.
            center (tuple[float], optional): (x, y) in pixels; the canvas's own by default.
            scale (float): Factor of size.
            border_value (int): 0, the only one that leaves the masks what they are.
            interpolation (str): What comes out at half or more is set.
        """
        self._check_shape(out_shape)
        center = center or ((self.width - 1) * 0.5, (self.height - 1) * 0.5)
        _check_border(border_value)
        return self.warp(cv2.getRotationMatrix2D(center, -angle, scale), interpolation)

    def _check_shape(self, out_shape):
        if tuple(out_shape) != (self.height, self.width):
            raise ValueError(f'the canvas of {self.height} x {self.width} keeps its shape, {tuple(out_shape)} is asked')

    def warp(self, matrix, interpolation='bilinear'):
        """Warp on a canvas that keeps its shape, as `cv2.warpAffine` does, each bitmap on its own.

        Args:
            matrix (ndarray): float (2, 3), from and to centres of pixels, (x, y).
            interpolation (str): What comes out at half or more is set.
        """
        flags = cv2_interp_codes[interpolation]
        pixels, boxes = [np.zeros(0, np.uint8)], np.zeros_like(self.boxes)
        for i, (x, y, bitmap) in enumerate(self.crops()):
            if not bitmap.size:
                continue
            height, width = bitmap.shape
            # Interpolation spreads a pixel, from its centre, over its neighbours.
            corners = np.float64([[x - 1, x + width] * 2, [y - 1] * 2 + [y + height] * 2])
            warped = matrix[:, :2] @ corners + matrix[:, 2:]
            left, top = np.maximum(np.floor(warped.min(1)).astype(int), 0)
            right, bottom = np.minimum(np.ceil(warped.max(1)).astype(int) + 1, (self.width, self.height))
            if right <= left or bottom <= top:
                continue
            local = matrix.copy()
            local[:, 2] += matrix[:, :2] @ (x, y) - (left, top)
            boxes[i] = left, top, right - left, bottom - top
            pixels.append(cv2.warpAffine(bitmap, local, (int(right - left), int(bottom - top)), flags=flags).ravel())
        return self._of(np.concatenate(pixels), boxes, self.height, self.width)

    @classmethod
    def cat(cls, masks):
        """Concatenate a sequence of `LocalMasks` of one canvas."""
        if not masks:
            raise ValueError('there are no masks to concatenate')
        shapes = {(part.height, part.width) for part in masks}
        if len(shapes) > 1:
            raise ValueError(f'masks of several canvases cannot be concatenated: {sorted(shapes)}')
        return cls._tight(np.concatenate([part.pixels for part in masks]),
                          np.concatenate([part.boxes for part in masks]), *shapes.pop())

    @classmethod
    def random(cls, num_masks=3, height=32, width=32, dtype=np.uint8, rng=None):  # noqa: ARG003 (BitmapMasks' signature)
        """Random masks for tests: the same that `BitmapMasks.random` gives for the same `rng`."""
        return cls.from_bitmaps(ensure_rng(rng).rand(num_masks, height, width) > 0.1)


class _NoCanvasError(UserError, AttributeError):
    """One line for the user, and 'no' for `hasattr`."""


def as_local_masks(masks, height, width):
    """Masks of any form that MMDetection or COCO has.

    Args:
        masks (LocalMasks | BitmapMasks | PolygonMasks | ndarray | Tensor | list[dict]): Arrays and tensors (N, H, W);
            a list of COCO RLEs.
        height (int): Rows of the canvas, for RLEs and for arrays of no instance.
        width (int): Columns of the canvas, likewise.
    """
    if isinstance(masks, LocalMasks):
        return masks
    if isinstance(masks, BitmapMasks | PolygonMasks):
        height, width = masks.height, masks.width
    if isinstance(masks, PolygonMasks):
        masks = [rle.encode_segmentation([part.tolist() for part in parts], height, width) for parts in masks.masks]
    elif isinstance(masks, BitmapMasks):
        masks = masks.masks
    if isinstance(masks, list | tuple):
        return LocalMasks.from_rles(masks, height, width)
    # Heads give no detections in shapes of their own, such as (0, 28, 28).
    return LocalMasks.from_bitmaps(masks) if len(masks) else LocalMasks.empty(height, width)


def _draw(canvas, x, y, bitmap):
    canvas[y:y + bitmap.shape[0], x:x + bitmap.shape[1]] = bitmap


def _nearest(size, out_size):
    """Which place of `size` each of `out_size` shows: asked of OpenCV itself, since it has its own way of rounding."""
    places = np.arange(size, dtype=np.float32)[None]
    return cv2.resize(places, (out_size, 1), interpolation=cv2.INTER_NEAREST)[0].astype(np.int64)


def _check_border(border_value):
    if border_value != 0:
        raise ValueError(f'outside of LocalMasks there is 0, not {border_value}')
