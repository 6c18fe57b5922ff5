"""True masks at the stride of predictions, without a canvas at the full one."""
import numpy as np
import torch

from cellseg_mm.structures.local_masks import LocalMasks, as_local_masks


def true_masks(instances):
    """The masks of true instances, of any of MMDetection's types, as `LocalMasks`."""
    return as_local_masks(instances.masks, instances.masks.height, instances.masks.width)


def averaged(masks, stride, least):
    """Masks shrunk by a whole factor, as bilinear interpolation shrinks canvases.

    It averages the four pixels in the middle of each `stride` x `stride` block.

    Args:
        masks (LocalMasks): N masks; a canvas that is no multiple of the stride is padded at its right and lower edge.
        stride (int): Even.
        least (int): How many of the four have to be set: 2 rounds as OpenCV does, 3 means more than half.

    Returns:
        LocalMasks: N masks on a canvas of (height / stride, width / stride).
    """
    middle = slice(stride // 2 - 1, stride // 2 + 1)
    boxes, pixels = np.zeros_like(masks.boxes), [np.zeros(0, bool)]
    for box, (x, y, bitmap) in zip(boxes, masks.crops(), strict=True):
        left, top = x // stride, y // stride
        columns, rows = -(-(x + bitmap.shape[1]) // stride) - left, -(-(y + bitmap.shape[0]) // stride) - top
        blocks = np.zeros((rows * stride, columns * stride), np.uint8)
        blocks[y - top * stride:, x - left * stride:][:bitmap.shape[0], :bitmap.shape[1]] = bitmap
        blocks = blocks.reshape(rows, stride, columns, stride)[:, middle, :, middle]
        box[:] = left, top, columns, rows
        pixels.append((blocks.sum((1, 3)) >= least).ravel())
    return LocalMasks(np.concatenate(pixels), boxes, -(-masks.height // stride), -(-masks.width // stride))


def sampled(masks, stride):
    """Masks at every `stride`-th pixel, beginning with number `stride // 2`, as `LocalMasks`."""
    shape = masks.height, masks.width
    start = stride // 2
    moved = masks.translate(shape, (-start, -start), 'both')
    return moved.resize((-(-(shape[0] - start) // stride), -(-(shape[1] - start) // stride)))


def centres(masks):
    """Centre of mass of each instance: float32 (N, 2) of x and y, 0 where an instance is empty."""
    sums = np.zeros((len(masks), 2), np.int64)
    for total, (x, y, bitmap) in zip(sums, masks.crops(), strict=True):
        rows, columns = np.nonzero(bitmap)
        total[:] = columns.sum() + x * len(columns), rows.sum() + y * len(rows)
    return torch.from_numpy(sums) / torch.from_numpy(masks.areas).float().clamp(min=1e-6)[:, None]
