"""Which masks share pixels, and sets of masks that share fewer.

Masks meet in a grid of bins, so that time grows with the number of masks instead of its square.
"""
import numpy as np

from cellseg_mm.structures.compiled import compiled
from cellseg_mm.structures.local_masks import LocalMasks


def intersections(first, second):
    """The pixels that masks of two sets share.

    Args:
        first (LocalMasks): N masks.
        second (LocalMasks): M masks on the same canvas.

    Returns:
        tuple[ndarray, ndarray, ndarray]: int64 (K,) each: the index in `first`, that in `second`, and how many pixels
            they share, for every pair that shares one; by ascending index in `first`, then in `second`.
    """
    return _intersections(first.pixels, first.boxes, first.offsets, np.zeros(len(first), np.int64),
                          second.pixels, second.boxes, second.offsets, np.ones(len(second), np.int64), *_grid(second))


def overlaps(masks, groups):
    """The pairs of masks of different groups that share pixels, each pair once.

    Args:
        masks (LocalMasks): N masks.
        groups (ndarray): int64 (N,).

    Returns:
        tuple[ndarray, ndarray, ndarray]: int64 (K,) each: the index of lower group, that of higher, and how many pixels
            they share.
    """
    parts = masks.pixels, masks.boxes, masks.offsets, groups
    return _intersections(*parts, *parts, *_grid(masks))


def suppress(masks, scores, iou=0.5):
    """Choose masks so that no two are about the same: non-maximum suppression by mask, whatever the class.

    From the highest score down (of equal ones, the first), a mask is left out where one that was chosen has an IoU
    with it above `iou`.

    Args:
        masks (LocalMasks): N masks.
        scores (ndarray): float (N,).
        iou (float): In [0, 1].

    Returns:
        ndarray: bool (N,), those chosen. Empty masks are chosen.
    """
    i, j, shared = overlaps(masks, np.arange(len(masks)))
    areas = masks.areas
    rival = shared > iou * (areas[i] + areas[j] - shared)
    rank = np.empty(len(masks), np.int64)
    rank[np.argsort(-np.asarray(scores), kind='stable')] = np.arange(len(masks))
    better, worse = np.where(rank[i] < rank[j], i, j)[rival], np.where(rank[i] < rank[j], j, i)[rival]
    chosen = np.ones(len(masks), bool)
    _suppress(better, worse, np.argsort(rank[better], kind='stable'), chosen)
    return chosen


def distinct(masks, scores):
    """Masks as a label map holds them: of about the same ones only the surest, and no two on one pixel.

    Args:
        masks (LocalMasks): N masks.
        scores (ndarray): float (N,).

    Returns:
        tuple[LocalMasks, ndarray]: K masks, none of them empty, what `suppress` and `without_overlap` leave; and int64
            (K,), ascending, which of the N each is.
    """
    chosen = np.flatnonzero(suppress(masks, scores))
    masks = without_overlap(masks[chosen], np.asarray(scores)[chosen])
    filled = masks.boxes[:, 2] > 0
    return masks[filled], chosen[filled]


def without_overlap(masks, scores):
    """Give each pixel to one mask only.

    Args:
        masks (LocalMasks): N masks.
        scores (ndarray): (N,); the highest takes the pixel, of equal ones the first.

    Returns:
        LocalMasks: N masks, some of which may have become empty.
    """
    i, j, _ = overlaps(masks, np.arange(len(masks)))
    scores = np.asarray(scores)
    # The lower index comes first where scores are equal.
    takes_i = scores[i] >= scores[j]
    pixels = masks.pixels.copy()
    # What a mask takes from another is decided by the masks as they were: a pixel of three is that of the highest.
    _clear(pixels, masks.pixels, masks.boxes, masks.offsets, np.where(takes_i, j, i), np.where(takes_i, i, j))
    return LocalMasks(pixels, masks.boxes, masks.height, masks.width)


def areas_within(masks, indices, windows):
    """How many pixels of masks lie within windows.

    Args:
        masks (LocalMasks): N masks.
        indices (ndarray): int64 (K,) of the masks.
        windows (ndarray): int64 (K, 4), x, y, width and height in pixels; they may reach outside of the masks.

    Returns:
        ndarray: int64 (K,).
    """
    return _areas_within(masks.pixels, masks.boxes, masks.offsets, indices, windows)


def _grid(masks):
    """Bins of a canvas, each with the masks whose boxes reach into it: `side` of a bin, `columns`, and lists.

    A bin is about as large as a mask, and there are about as many of both.
    """
    boxes = masks.boxes
    size = float(np.median(boxes[:, 2:].max(1))) if len(boxes) else 1.0
    side = int(max(8, size, np.sqrt(masks.height * masks.width / (2 * len(boxes) + 64))))
    columns = masks.width // side + 1
    return side, columns, *bins(boxes, side, columns, masks.height // side + 1)


@compiled
def bins(boxes, side, columns, rows):
    """The boxes that reach into each bin of a grid over the canvas.

    Args:
        boxes (ndarray): int32 (N, 4), x, y, width and height in pixels; empty ones reach into none.
        side (int): Pixels of a bin along each side.
        columns (int): Bins in a row, enough for all boxes.
        rows (int): Rows of bins.

    Returns:
        tuple[ndarray, ndarray]: `starts`, int64 (columns * rows + 1,), and `members`, int64 (K,): those of bin b, row
            by row, are `members[starts[b]:starts[b + 1]]`, ascending.
    """
    starts = np.zeros(columns * rows + 1, np.int64)
    for step in range(2):
        if step:
            starts[1:] = np.cumsum(starts[1:])
            members, places = np.empty(starts[-1], np.int64), starts[:-1].copy()
        for i in range(len(boxes)):
            x, y, w, h = boxes[i]
            if w == 0:
                continue
            for row in range(y // side, (y + h - 1) // side + 1):
                for column in range(x // side, (x + w - 1) // side + 1):
                    place = row * columns + column
                    if step:
                        members[places[place]] = i
                        places[place] += 1
                    else:
                        starts[place + 1] += 1
    return starts, members


@compiled
def _intersections(pixels, boxes, offsets, groups, other_pixels, other_boxes, other_offsets, other_groups, side,
                   columns, starts, members):
    found, count = np.empty((3, max(16, 4 * len(boxes))), np.int64), 0
    for i in range(len(boxes)):
        x, y, w, h = boxes[i]
        if w == 0:
            continue
        first = count
        for row_of_bins in range(y // side, (y + h - 1) // side + 1):
            for column_of_bins in range(x // side, (x + w - 1) // side + 1):
                place = row_of_bins * columns + column_of_bins
                for member in range(starts[place], starts[place + 1]):
                    j = members[member]
                    u, v, s, t = other_boxes[j]
                    left, right, top, bottom = max(x, u), min(x + w, u + s), max(y, v), min(y + h, v + t)
                    # Two boxes can meet in several bins; that of the common corner counts.
                    if left >= right or top >= bottom or left // side != column_of_bins or top // side != row_of_bins:
                        continue
                    if groups[i] >= other_groups[j]:
                        continue
                    area = 0
                    for row in range(top, bottom):
                        here, there = offsets[i] + (row - y) * w - x, other_offsets[j] + (row - v) * s - u
                        for column in range(left, right):
                            area += pixels[here + column] & other_pixels[there + column]
                    if area:
                        if count == found.shape[1]:
                            more = np.empty((3, 2 * count), np.int64)
                            more[:, :count] = found
                            found = more
                        found[0, count], found[1, count], found[2, count] = i, j, area
                        count += 1
        order = np.argsort(found[1, first:count])
        found[1, first:count], found[2, first:count] = found[1, first:count][order], found[2, first:count][order]
    return found[0, :count].copy(), found[1, :count].copy(), found[2, :count].copy()


@compiled
def _suppress(better, worse, order, chosen):
    # By descending score of the better one, which is then known to be chosen or not.
    for k in order:
        if chosen[better[k]]:
            chosen[worse[k]] = False


@compiled
def _clear(pixels, before, boxes, offsets, losers, takers):
    for k in range(len(losers)):
        i, j = losers[k], takers[k]
        x, y, w, h = boxes[i]
        u, v, s, t = boxes[j]
        left, right = max(x, u), min(x + w, u + s)
        for row in range(max(y, v), min(y + h, v + t)):
            here, there = offsets[i] + (row - y) * w - x, offsets[j] + (row - v) * s - u
            for column in range(left, right):
                if before[there + column]:
                    pixels[here + column] = 0


@compiled
def _areas_within(pixels, boxes, offsets, indices, windows):
    areas = np.zeros(len(indices), np.int64)
    for k in range(len(indices)):
        i = indices[k]
        x, y, w, h = boxes[i]
        left, right = max(x, windows[k, 0]), min(x + w, windows[k, 0] + windows[k, 2])
        for row in range(max(y, windows[k, 1]), min(y + h, windows[k, 1] + windows[k, 3])):
            start = offsets[i] + (row - y) * w - x
            for column in range(left, right):
                areas[k] += pixels[start + column]
    return areas
