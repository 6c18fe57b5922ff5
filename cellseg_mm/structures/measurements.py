"""Size, shape and colour of masks, as scikit-image's `regionprops` defines them, all masks at once."""
from math import sqrt
from typing import NamedTuple

import numpy as np

from cellseg_mm.structures.compiled import compiled
from cellseg_mm.structures.overlaps import bins

_WINDOW = 2048


class Shapes(NamedTuple):
    """Of N masks, each float64 (N,), in pixels where nothing else is said; NaN for empty masks.

    Attributes:
        area: Pixels that are set.
        x: Of the centroid; 0 is the middle of the first column.
        y: Of the centroid; 0 is the middle of the first row.
        perimeter: Length of the border through the outermost pixels (Benkrid and Crookes' estimate).
        major_axis: Length of the long axis of the ellipse with the same second moments: scikit-image's
            axis_major_length.
        minor_axis: Of its short axis: axis_minor_length.
        eccentricity: Of that ellipse, 0 for a circle to 1.
        orientation: Angle from the y axis, which points down, to the long axis, counter-clockwise as seen, in radians
            from -pi/2 to pi/2.
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
    count, xs, ys, xxs, yys, xys = _moments(masks.pixels, masks.boxes, masks.offsets).T
    area = np.where(count > 0, count, np.nan)
    x, y = xs / area, ys / area
    # Whole numbers up to the division, which differences of large ones leave exact.
    xx, yy, xy = (area * xxs - xs**2) / area**2, (area * yys - ys**2) / area**2, (area * xys - xs * ys) / area**2
    middle, half = (xx + yy) / 2, np.sqrt((xx - yy)**2 / 4 + xy**2)
    long, short = middle + half, np.maximum(middle - half, 0)
    # A single pixel is round.
    eccentricity = np.sqrt(1 - short / np.where(long > 0, long, 1)) * (long > 0)
    # Where no axis is longer, as scikit-image has it.
    orientation = np.where(xx == yy, np.where(xy > 0, np.pi / 4, -np.pi / 4), np.arctan2(2 * xy, yy - xx) / 2)
    parts = masks.pixels, masks.boxes, masks.offsets
    return Shapes(area, x + masks.boxes[:, 0], y + masks.boxes[:, 1], np.where(count > 0, _perimeters(*parts), np.nan),
                  4 * np.sqrt(long), 4 * np.sqrt(short), eccentricity, orientation,
                  area / np.where(count > 0, _hull_areas(*parts), 1))


def mean_colors(image, masks, curves):
    """The means over masks of functions of an image's values, read a window at a time.

    Args:
        image: Of the masks' canvas; its `read(x, y, width, height)` gives uint8 (height, width, 3) of a window.
        masks (LocalMasks): N masks.
        curves (ndarray): float64 (K, 256), K functions by their values from 0 to 255.

    Returns:
        ndarray: float64 (N, K, 3), of each function and channel; NaN for empty masks.
    """
    columns, rows = -(-masks.width // _WINDOW), -(-masks.height // _WINDOW)
    low, high = masks.boxes[:, :2], masks.boxes[:, :2] + masks.boxes[:, 2:]
    starts, members = bins(masks.boxes, _WINDOW, columns, rows)
    sums = np.zeros((len(masks), len(curves), 3))
    for place in np.flatnonzero(np.diff(starts)).tolist():
        chosen, corner = members[starts[place]:starts[place + 1]], np.array(divmod(place, columns))[::-1] * _WINDOW
        # What masks have in other windows is added there.
        (x, y), stop = np.maximum(low[chosen], corner).min(0), np.minimum(high[chosen], corner + _WINDOW).max(0)
        window = image.read(int(x), int(y), int(stop[0] - x), int(stop[1] - y))
        _add(np.ascontiguousarray(window), x, y, masks.pixels, masks.boxes, masks.offsets, chosen, curves, sums)
    areas = masks.areas
    return sums / np.where(areas > 0, areas, np.nan)[:, None, None]


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
def _add(window, x, y, pixels, boxes, offsets, members, curves, sums):
    """Add what some masks have in a window, whose corner is at x and y of the canvas, to their sums."""
    for i in members:
        left, top, width, height = boxes[i]
        first, last = max(left, x), min(left + width, x + window.shape[1])
        for row in range(max(top, y), min(top + height, y + window.shape[0])):
            source = offsets[i] + (row - top) * width - left
            for column in range(first, last):
                if pixels[source + column]:
                    for channel in range(3):
                        value = window[row - y, column - x, channel]
                        for k in range(len(curves)):
                            sums[i, k, channel] += curves[k, value]


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
