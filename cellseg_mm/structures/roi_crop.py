"""From bitmaps in the image to what mask heads learn, no canvas for any of them."""
import numpy as np

from cellseg_mm.structures.bitmaps import offsets_of
from cellseg_mm.structures.compiled import compiled


def crop_and_resize(pixels, boxes, rois, inds, height, width, out_shape):
    """RoIAlign (He et al. 2017, https://arxiv.org/abs/1703.06870) of single instances.

    The average of each bin's samples, at most a pixel apart, with RoIs in continuous coordinates (`aligned=True`,
    `sampling_ratio=0`): what MMDetection's `BitmapMasks.crop_and_resize` compares with 0.5. Bins of RoIs without width
    or height have no samples and are zero.

    Args:
        pixels (ndarray): uint8 (P,), the bitmaps one after another.
        boxes (ndarray): int32 (N, 4), the bitmaps' x, y, w, h.
        rois (ndarray): float32 (K, 4), x1, y1, x2, y2 in pixels of the image, which they may leave.
        inds (ndarray): int (K,), the instance of each RoI.
        height (int): Rows of the image, at whose border samples are extended by a pixel.
        width (int): Columns of the image.
        out_shape (tuple[int, int]): Rows and columns of bins.

    Returns:
        ndarray: float32 (K, *out_shape) in [0, 1].

    Raises:
        ValueError: If there are not as many RoIs as `inds`.
        IndexError: If an instance is not there.
    """
    inds = _checked(inds, boxes, rois)
    crops = np.empty((len(inds), *out_shape), np.float32)
    _crop(pixels, boxes, offsets_of(boxes), np.ascontiguousarray(rois, np.float32), inds, height, width,
          boxes[inds, 2:].max(initial=0), crops)
    return crops


def sample_points(pixels, boxes, points, inds):
    """Single instances, interpolated bilinearly at points, with zeros outside of the image: what PointRend learns.

    Args:
        pixels (ndarray): uint8 (P,), the bitmaps one after another.
        boxes (ndarray): int32 (N, 4), the bitmaps' x, y, w, h.
        points (ndarray): float32 (K, M, 2), x and y in pixels of the image, the first pixel's centre at 0.5.
        inds (ndarray): int (K,), the instance of each M points.

    Returns:
        ndarray: float32 (K, M) in [0, 1].

    Raises:
        ValueError: If there are not points for each of `inds`.
        IndexError: If an instance is not there.
    """
    inds = _checked(inds, boxes, points)
    values = np.empty(points.shape[:2], np.float32)
    _sample(pixels, boxes, offsets_of(boxes), np.ascontiguousarray(points, np.float32), inds, values)
    return values


def _checked(inds, boxes, places):
    inds = np.ascontiguousarray(inds, np.int64)
    if len(inds) != len(places):
        raise ValueError(f'{len(inds)} instances are asked for at {len(places)} places')
    if len(inds) and not 0 <= inds.min() <= inds.max() < len(boxes):
        raise IndexError(f'there are {len(boxes)} instances, and number {inds.min()} or {inds.max()} is asked for')
    return inds


@compiled
def _sample(pixels, boxes, offsets, points, inds, values):
    half, one = np.float32(0.5), np.float32(1)
    for k in range(len(inds)):
        x, y, w, h = boxes[inds[k]]
        start = offsets[inds[k]]
        for m in range(points.shape[1]):
            across, down = points[k, m, 0] - half - np.float32(x), points[k, m, 1] - half - np.float32(y)
            total = np.float32(0)
            if -1 < across < w and -1 < down < h:
                left, top = int(np.floor(across)), int(np.floor(down))
                for row in range(max(top, 0), min(top + 2, h)):
                    for column in range(max(left, 0), min(left + 2, w)):
                        weight = (one - abs(down - np.float32(row))) * (one - abs(across - np.float32(column)))
                        total += weight * np.float32(pixels[start + row * w + column])
            values[k, m] = total


@compiled
def _crop(pixels, boxes, offsets, rois, inds, height, width, longest, crops):
    bins_down, bins_across = crops.shape[1:]
    # Averaging is separable: along the rows, then along the columns, each bin over the few pixels that it touches.
    row_weights, row_spans = np.empty((bins_down, longest), np.float32), np.empty((bins_down, 2), np.int64)
    column_weights, column_spans = np.empty((bins_across, longest), np.float32), np.empty((bins_across, 2), np.int64)
    line = np.empty(longest, np.float32)
    for k in range(len(inds)):
        i, roi = inds[k], rois[k]
        x, y, w, h = boxes[i]
        bitmap = pixels[offsets[i]:offsets[i] + w * h].reshape(h, w)
        _weigh(roi[0], roi[2], x, w, width, column_weights, column_spans)
        _weigh(roi[1], roi[3], y, h, height, row_weights, row_spans)
        for down in range(bins_down):
            line[:w] = 0
            for row in range(row_spans[down, 0], row_spans[down, 1]):
                weight, bitmap_row = row_weights[down, row], bitmap[row]
                for column in range(w):
                    line[column] += weight * np.float32(bitmap_row[column])
            for across in range(bins_across):
                total = np.float32(0)
                for column in range(column_spans[across, 0], column_spans[across, 1]):
                    total += column_weights[across, column] * line[column]
                crops[k, down, across] = total


@compiled
def _weigh(low, high, first, length, limit, weights, spans):
    """Each bin's weights of `length` pixels from `first` on, along one axis of `limit` pixels, and which it touches."""
    half, one, bins = np.float32(0.5), np.float32(1), len(weights)
    start = low - half
    step = (high - half - start) / np.float32(bins)
    samples = np.ceil(step)
    for number in range(bins):
        spans[number] = 0
        bin_start = start + np.float32(number) * step
        # Of the samples, the few that lie near the bitmap, one more on either side for rounding.
        if not 1 <= samples < np.inf:
            continue
        spacing = step / samples
        least = max(0.0, np.floor((first - 1 - bin_start) / spacing) - 2)
        most = min(samples, np.ceil((first + length + 1 - bin_start) / spacing) + 2)
        if not least < most:
            continue
        begin, end = length, 0
        weights[number, :length] = 0
        for sample in range(int(least), int(most)):
            at = bin_start + (np.float32(sample) + half) * step / samples
            # Beyond a pixel outside the image there is nothing; up to there, the border's pixel.
            if not -one <= at <= limit:
                continue
            at = min(max(at, np.float32(0)), np.float32(limit - 1))
            pixel = int(at)
            weight = at - np.float32(pixel)
            pixel -= first
            if 0 <= pixel < length:
                weights[number, pixel] += (one - weight) / samples
                begin, end = min(begin, pixel), max(end, pixel + 1)
            if weight > 0 and 0 <= pixel + 1 < length:
                weights[number, pixel + 1] += weight / samples
                begin, end = min(begin, pixel + 1), max(end, pixel + 2)
        spans[number] = begin, max(begin, end)
