"""From the fixed-size masks that a network predicts for boxes to bitmaps in the image, no canvas for any of them."""
import numpy as np

from cellseg_mm.structures.bitmaps import offsets_of
from cellseg_mm.structures.compiled import compiled


def paste(probabilities, boxes, height, width, threshold):
    """Interpolate each mask bilinearly at its box's pixels, and set those at or above the threshold.

    Beyond a mask's outermost values it falls to zero, within half of their spacing outside the box: below a threshold
    of 0.5, pixels there are set too, but only a box's next ones, and a box without width takes the middle of its mask.
    So does MMDetection on CPUs; on GPUs it has no such limit, which makes a difference in these two cases alone.
    A box that is not finite, or lies outside the image, gives an instance without pixels.

    Args:
        probabilities (ndarray): float32 (N, h, w) in [0, 1].
        boxes (ndarray): float32 (N, 4), x1, y1, x2, y2 in pixels of the image, which they may leave.
        height (int): Rows of the image.
        width (int): Columns of the image.
        threshold (float): In (0, 1].

    Returns:
        tuple[ndarray, ndarray]: The bitmaps, uint8 (P,) one after another, and their boxes, int32 (N, 4) of x, y, w, h,
            which hold all pixels that are set and may be larger.

    Raises:
        ValueError: If the threshold is another: one of zero would set every pixel. If there are more or fewer boxes
            than masks.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f'the threshold of masks (mask_thr_binary) is {threshold}; it has to be above 0 and at most 1')
    if len(probabilities) != len(boxes):
        raise ValueError(f'there are {len(probabilities)} masks for {len(boxes)} boxes')
    probabilities = np.ascontiguousarray(probabilities, np.float32)
    boxes = np.ascontiguousarray(boxes, np.float32)
    low = np.maximum(np.floor(boxes[:, :2]) - 1, 0)
    size = np.minimum(np.ceil(boxes[:, 2:]) + 1, np.float32([width, height])) - low
    present = np.isfinite(boxes).all(1) & (size > 0).all(1)
    windows = np.where(present[:, None], np.hstack([low, size]), 0).astype(np.int32)
    pixels = np.empty(offsets_of(windows)[-1], np.uint8)
    _paste(probabilities, boxes, windows, windows[:, 2:].max(initial=0), np.float32(threshold), pixels)
    return pixels, windows


@compiled
def _paste(probabilities, boxes, windows, longest, threshold, pixels):
    mask_height, mask_width = probabilities.shape[1:]
    # A rim of zeros saves asking whether a neighbour lies outside the mask.
    padded = np.zeros((mask_height + 2, mask_width + 2), np.float32)
    line = np.zeros(mask_width + 2, np.float32)
    rows, row_weights = np.empty(longest, np.uintp), np.empty(longest, np.float32)
    columns, column_weights = np.empty(longest, np.uintp), np.empty(longest, np.float32)
    one = np.float32(1)
    end = 0
    for i in range(len(windows)):
        x, y, width, height = windows[i]
        padded[1:-1, 1:-1] = probabilities[i]
        _place(x, width, boxes[i, 0], boxes[i, 2], mask_width, columns, column_weights)
        _place(y, height, boxes[i, 1], boxes[i, 3], mask_height, rows, row_weights)
        for row in range(height):
            upper, lower, weight = padded[rows[row]], padded[rows[row] + np.uintp(1)], row_weights[row]
            for column in range(len(line)):
                line[column] = upper[column] * (one - weight) + lower[column] * weight
            bitmap_row = pixels[end:end + width]
            for column in range(width):
                left, weight = columns[column], column_weights[column]
                value = line[left] * (one - weight) + line[left + np.uintp(1)] * weight
                bitmap_row[column] = value >= threshold
            end += width


@compiled
def _place(start, length, low, high, size, lefts, weights):
    """For pixels along one axis, the first of the two padded values they lie between, and the second's weight.

    The arithmetic is float32 and in MMDetection's order, as are its rules for boxes without width.
    """
    one, two, extent = np.float32(1), np.float32(2), high - low
    for i in range(length):
        offset = np.float32(start + i) + np.float32(0.5) - low
        if extent != 0:
            at = offset / extent * two - one
        else:
            at = np.float32(np.inf if offset != 0 else np.nan)
        if np.isinf(at):
            at = np.float32(0)
        at = ((at + one) * np.float32(size) - one) / two
        # Not a number where a box without width meets a pixel's centre: MMDetection leaves that pixel unset.
        if -one < at < size:
            floor = np.floor(at)
            lefts[i], weights[i] = np.uintp(floor + one), at - floor
        else:
            lefts[i], weights[i] = 0, 0
