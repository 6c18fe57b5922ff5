"""Many small bitmaps at once, and the loops over their pixels.

N bitmaps lie one after another in `pixels`, uint8 (P,); bitmap i begins at `offsets[i]`, int64 (N + 1,), and is the
rows of `boxes[i]`, int32 x, y, width and height in whole pixels of its canvas. `windows` has the form of `boxes`.
"""
import numpy as np

from cellseg_mm.structures.compiled import compiled


def offsets_of(boxes):
    """Where each bitmap begins in the pixels, and the end of the last: int64 (N + 1,)."""
    offsets = np.zeros(len(boxes) + 1, np.int64)
    np.cumsum(boxes[:, 2].astype(np.int64) * boxes[:, 3], out=offsets[1:])
    return offsets


def tighten(pixels, boxes):
    """The same bitmaps within tight boxes: pixels and boxes."""
    offsets = offsets_of(boxes)
    tight = tight_boxes(pixels, boxes, offsets)
    if np.array_equal(tight, boxes):
        return pixels, boxes
    return cut(pixels, boxes, offsets, tight, offsets_of(tight)), tight


def label_map_bitmaps(labels):
    """Bitmaps of the instances of a label map, in ascending order of their ids.

    Args:
        labels (ndarray): int (H, W), 0 is background; ids may have gaps and be of any size.

    Returns:
        tuple[ndarray, ndarray]: `pixels`, and `boxes`, int32 (N, 4), tight.
    """
    starts, lengths, values = runs(np.ascontiguousarray(labels).ravel())
    ids, numbers = np.unique(values, return_inverse=True)
    # Background is numbered -1, what follows it in order one lower than here.
    background = np.searchsorted(ids, 0)
    present = background < len(ids) and ids[background] == 0
    if present:
        numbers = np.where(numbers == background, -1, numbers - (numbers > background))
    parts = starts, starts + lengths, numbers, labels.shape[1]
    boxes = boxes_of_runs(*parts, len(ids) - present)
    return fill_runs(*parts, boxes, offsets_of(boxes)), boxes


def paint(pixels, boxes, height, width):
    """Label map of bitmaps, of which later ones cover earlier ones, and which bitmaps overlap.

    Args:
        pixels (ndarray): uint8 (P,), the N bitmaps one after another.
        boxes (ndarray): int32 (N, 4).
        height (int): Rows of the canvas.
        width (int): Columns of the canvas.

    Returns:
        tuple[ndarray, ndarray]: int32 (H, W), i + 1 for the pixels of bitmap i; and bool (N,), whether bitmap i shares
            pixels with another.
    """
    labels, overlapping = np.zeros((height, width), np.int32), np.zeros(len(boxes) + 1, bool)
    _paint(pixels, boxes, labels, overlapping)
    return labels, overlapping[1:]


def runs(flat):
    """Starts, lengths and values, each (R,), of the runs of equal values in a flat array."""
    if not flat.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), flat
    starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
    return starts, np.diff(starts, append=flat.size), flat[starts]


@compiled
def tight_boxes(pixels, boxes, offsets):
    """The boxes of the pixels that are set: int32 (N, 4); zeros where there is none."""
    tight = np.zeros_like(boxes)
    for i in range(len(boxes)):
        x, y, width, height = boxes[i]
        left, right, top, bottom = width, -1, -1, -1
        start = offsets[i]
        for row in range(height):
            first = 0
            while first < width and not pixels[start + first]:
                first += 1
            if first < width:
                if top < 0:
                    top = row
                bottom = row
                left = min(left, first)
                last = width - 1
                while last > right and not pixels[start + last]:
                    last -= 1
                right = last
            start += width
        if top >= 0:
            tight[i] = x + left, y + top, right - left + 1, bottom - top + 1
    return tight


@compiled
def cut(pixels, boxes, offsets, windows, out_offsets):
    """The pixels within windows that lie inside the boxes: uint8 (Q,)."""
    out = np.empty(out_offsets[-1], np.uint8)
    for i in range(len(boxes)):
        width = boxes[i, 2]
        source = offsets[i] + (windows[i, 1] - boxes[i, 1]) * width + windows[i, 0] - boxes[i, 0]
        target = out_offsets[i]
        for _ in range(windows[i, 3]):
            for column in range(windows[i, 2]):
                out[target + column] = pixels[source + column]
            source += width
            target += windows[i, 2]
    return out


@compiled
def take(pixels, offsets, indices, out_offsets):
    """The pixels of the bitmaps at `indices`, int64 (M,), one after another."""
    out = np.empty(out_offsets[-1], np.uint8)
    for m in range(len(indices)):
        start, stop = offsets[indices[m]], offsets[indices[m] + 1]
        out[out_offsets[m]:out_offsets[m + 1]] = pixels[start:stop]
    return out


@compiled
def sample(pixels, boxes, offsets, rows, columns, windows, out_offsets):
    """Pixels of another canvas, whose row i shows row `rows[i]` of this one, and so the columns.

    `windows`, on the other canvas, show nothing that lies outside of the boxes.
    """
    out = np.empty(out_offsets[-1], np.uint8)
    for i in range(len(boxes)):
        x, y, width, _ = boxes[i]
        left, top, window_width, window_height = windows[i]
        target = out_offsets[i]
        for row in range(top, top + window_height):
            source = offsets[i] + (rows[row] - y) * width - x
            for column in range(left, left + window_width):
                out[target] = pixels[source + columns[column]]
                target += 1
    return out


@compiled
def turn(pixels, boxes, offsets, flip_x, flip_y, transpose):
    """The pixels of the bitmaps flipped, then transposed."""
    out = np.empty(len(pixels), np.uint8)
    for i in range(len(boxes)):
        width, height = boxes[i, 2], boxes[i, 3]
        down, right = (1, height) if transpose else (width, 1)
        for row in range(height):
            source = offsets[i] + row * width
            target = offsets[i] + (height - 1 - row if flip_y else row) * down
            if flip_x:
                for column in range(width):
                    out[target + (width - 1 - column) * right] = pixels[source + column]
            else:
                for column in range(width):
                    out[target + column * right] = pixels[source + column]
    return out


@compiled
def areas_of(pixels, offsets):
    """How many pixels of each bitmap are set: int64 (N,)."""
    areas = np.zeros(len(offsets) - 1, np.int64)
    for i in range(len(areas)):
        count = 0
        for k in range(offsets[i], offsets[i + 1]):
            count += pixels[k]
        areas[i] = count
    return areas


@compiled
def _paint(pixels, boxes, labels, overlapping):
    source = 0
    for i in range(len(boxes)):
        x, y, width, height = boxes[i]
        for row in range(y, y + height):
            for column in range(x, x + width):
                if pixels[source]:
                    covered = labels[row, column]
                    if covered:
                        overlapping[covered] = overlapping[i + 1] = True
                    labels[row, column] = i + 1
                source += 1


@compiled
def boxes_of_runs(starts, stops, numbers, width, count):
    """Boxes, int32 (count, 4), of the instances that runs along the rows of a label map make up.

    Run r covers the flat places from `starts[r]` up to `stops[r]` and belongs to instance `numbers[r]`, -1 for none.
    """
    first = np.full((count, 2), np.iinfo(np.int64).max)
    last = np.full((count, 2), -1)
    for r in range(len(starts)):
        i = numbers[r]
        if i < 0:
            continue
        top, bottom = starts[r] // width, (stops[r] - 1) // width
        # A run that goes on in the next row touches both of the map's edges.
        left = starts[r] - top * width if top == bottom else 0
        right = stops[r] - 1 - bottom * width if top == bottom else width - 1
        first[i, 0], first[i, 1] = min(first[i, 0], left), min(first[i, 1], top)
        last[i, 0], last[i, 1] = max(last[i, 0], right), max(last[i, 1], bottom)
    boxes = np.empty((count, 4), np.int32)
    for i in range(count):
        boxes[i] = first[i, 0], first[i, 1], last[i, 0] - first[i, 0] + 1, last[i, 1] - first[i, 1] + 1
    return boxes


@compiled
def fill_runs(starts, stops, numbers, width, boxes, offsets):
    """The pixels of the instances that runs along the rows of a label map make up."""
    out = np.zeros(offsets[-1], np.uint8)
    for r in range(len(starts)):
        i = numbers[r]
        if i < 0:
            continue
        x, y, box_width, _ = boxes[i]
        place = starts[r]
        while place < stops[r]:
            row = place // width
            stop = min(stops[r], (row + 1) * width)
            target = offsets[i] + (row - y) * box_width - x - row * width
            out[target + place:target + stop] = 1
            place = stop
    return out
