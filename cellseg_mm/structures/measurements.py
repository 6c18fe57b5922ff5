"""Size and shape of masks, as scikit-image's `regionprops` defines them, all masks at once."""
from math import sqrt
from typing import NamedTuple

import numpy as np

from cellseg_mm.structures.compiled import compiled


class Shapes(NamedTuple):
    """Of N masks, each float64 (N,), in pixels where nothing else is said; NaN for empty masks.

    Attributes:
        area: Pixels that are set.
        x: Of the centroid; 0 is the middle of the first column.
        y: Of the centroid; 0 is the middle of the first row.
        perimeter: Length of the border through the outermost pixels (Benkrid and Crookes' estimate).
        major_axis: Length of the long axis of the ellipse with the same second moments.
        minor_axis: Of its short axis.
        eccentricity: Of that ellipse, 0 for a circle to 1.
        orientation: Angle from the x axis to the long axis, counter-clockwise as seen, in radians from -pi/2 to pi/2.
        solidity: Area over that of the convex hull.
    """

    area: np.ndarray
    x: np.ndarray
    y: np.ndarray
    perimeter: np.ndarray
    major_axis: np.ndarray
    minor_axis: np.ndarray
    eccentricity: np.ndarray
    orientation: np.ndarray
    solidity: np.ndarray


def shapes(masks):
    """Measure masks.

    Args:
        masks (LocalMasks): N masks.

    Returns:
        Shapes: Of all of them.
    """
    sums = _moments(masks.pixels, masks.boxes, masks.offsets)
    with np.errstate(invalid='ignore', divide='ignore'):
        area = np.where(sums[:, 0] > 0, sums[:, 0], np.nan)
        x, y = sums[:, 1] / area, sums[:, 2] / area
        xx, yy, xy = sums[:, 3] / area - x**2, sums[:, 4] / area - y**2, sums[:, 5] / area - x * y
        middle, half = (xx + yy) / 2, np.sqrt((xx - yy)**2 / 4 + xy**2)
        long, short = middle + half, np.maximum(middle - half, 0)
        round_ones = np.where(area > 0, 0, np.nan)
        eccentricity = np.where(long > 0, np.sqrt(1 - short / np.where(long > 0, long, 1)), round_ones)
    # Of y that points down.
    orientation = np.arctan2(-2 * xy, xx - yy) / 2
    return Shapes(area, x + masks.boxes[:, 0], y + masks.boxes[:, 1],
                  np.where(area > 0, _perimeters(masks.pixels, masks.boxes, masks.offsets), np.nan),
                  4 * np.sqrt(np.where(long > 0, long, 0 * area)), 4 * np.sqrt(short), eccentricity, orientation,
                  area / np.where(area > 0, _hull_areas(masks.pixels, masks.boxes, masks.offsets), np.nan))


def mean_colors(image, masks):
    """The mean of an image over each mask.

    Args:
        image (ndarray): (H, W, C), of any numbers.
        masks (LocalMasks): N masks on its pixels.

    Returns:
        ndarray: float64 (N, C); NaN for empty masks.
    """
    sums, areas = _sums(np.ascontiguousarray(image), masks.pixels, masks.boxes, masks.offsets), masks.areas
    return sums / np.where(areas > 0, areas, np.nan)[:, None]


@compiled
def _moments(pixels, boxes, offsets):
    """Sums of 1, x, y, x*x, y*y and x*y, from the box's corner: float64 (N, 6)."""
    sums = np.zeros((len(boxes), 6))
    for i in range(len(boxes)):
        width, height = boxes[i, 2], boxes[i, 3]
        place = offsets[i]
        for y in range(height):
            for x in range(width):
                if pixels[place]:
                    sums[i, 0] += 1
                    sums[i, 1] += x
                    sums[i, 2] += y
                    sums[i, 3] += x * x
                    sums[i, 4] += y * y
                    sums[i, 5] += x * y
                place += 1
    return sums


@compiled
def _sums(image, pixels, boxes, offsets):
    sums = np.zeros((len(boxes), image.shape[2]))
    for i in range(len(boxes)):
        x, y, w, h = boxes[i]
        place = offsets[i]
        for row in range(y, y + h):
            for column in range(x, x + w):
                if pixels[place]:
                    for channel in range(image.shape[2]):
                        sums[i, channel] += image[row, column, channel]
                place += 1
    return sums


@compiled
def _perimeters(pixels, boxes, offsets):
    lengths = np.zeros(len(boxes))
    for i in range(len(boxes)):
        width, height = boxes[i, 2], boxes[i, 3]
        bitmap = np.zeros((height + 4, width + 4), np.uint8)
        bitmap[2:-2, 2:-2] = pixels[offsets[i]:offsets[i + 1]].reshape(height, width)
        # Pixels of the border have one of the four neighbours outside.
        border = np.zeros_like(bitmap)
        for y in range(1, height + 3):
            for x in range(1, width + 3):
                if bitmap[y, x] and not (
                        bitmap[y - 1, x] and bitmap[y + 1, x] and bitmap[y, x - 1] and bitmap[y, x + 1]):
                    border[y, x] = 1
        straight, diagonal, mixed = 0, 0, 0
        for y in range(1, height + 3):
            for x in range(1, width + 3):
                beside = border[y - 1, x] + border[y + 1, x] + border[y, x - 1] + border[y, x + 1]
                corner = (border[y - 1, x - 1] + border[y - 1, x + 1] + border[y + 1, x - 1] + border[y + 1, x + 1])
                code = border[y, x] + 2 * beside + 10 * corner
                if code in (5, 7, 15, 17, 25, 27):
                    straight += 1
                elif code in (21, 33):
                    diagonal += 1
                elif code in (13, 23):
                    mixed += 1
        lengths[i] = straight + diagonal * sqrt(2.0) + mixed * (1 + sqrt(2.0)) / 2
    return lengths


@compiled
def _hull_areas(pixels, boxes, offsets):
    """Pixels whose middle lies in the convex hull of the middles of all edges of a mask's pixels: int64 (N,)."""
    areas = np.zeros(len(boxes), np.int64)
    for i in range(len(boxes)):
        width, height = boxes[i, 2], boxes[i, 3]
        # In halves of a pixel: the outermost points of each line of half pixels, from -1 up to 2 * height - 1.
        nowhere = 4 * width
        left, right = np.full(2 * height + 1, nowhere), np.full(2 * height + 1, nowhere)
        for y in range(height):
            start = offsets[i] + y * width
            first = 0
            while first < width and not pixels[start + first]:
                first += 1
            if first == width:
                continue
            last = width - 1
            while not pixels[start + last]:
                last -= 1
            for line in range(2 * y, 2 * y + 3):
                reach = line % 2
                left[line] = min(left[line], 2 * first - reach)
                right[line] = min(right[line], -2 * last - reach)
        lows, highs = _first_columns(left, nowhere), _first_columns(right, nowhere)
        for y in range(height):
            areas[i] += max(1 - highs[y] - lows[y], 0)
    return areas


@compiled
def _first_columns(values, nowhere):
    """The first column, for each row of pixels, at or right of the convex curve below points, one a line, in halves."""
    chain, length = np.empty(len(values), np.int64), 0
    for line in range(len(values)):
        if values[line] == nowhere:
            continue
        while length > 1:
            a, b = chain[length - 2], chain[length - 1]
            if (b - a) * (values[line] - values[a]) > (line - a) * (values[b] - values[a]):
                break
            length -= 1
        chain[length] = line
        length += 1
    columns = np.full(len(values) // 2, nowhere)
    for k in range(length - 1):
        a, b = chain[k], chain[k + 1]
        for line in range(a + 1 - a % 2, b + 1, 2):
            twice = values[a] * (b - a) + (values[b] - values[a]) * (line - a)
            columns[line // 2] = -(-twice // (2 * (b - a)))
    return columns
