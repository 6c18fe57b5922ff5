"""Outlines of masks as polygons along the edges of their pixels."""
import numpy as np
import shapely

from cellseg_mm.structures.compiled import compiled


def polygons(masks, tolerance=0.0):
    """The outlines of masks.

    Args:
        masks (LocalMasks): N masks.
        tolerance (float): How far, in pixels, a simplified outline may run from the pixels' edges (their Hausdorff
            distance); 0 leaves it exact, and so is an outline left that would cross itself.

    Returns:
        ndarray: object (N,) of valid shapely polygons with the holes that masks have, multipolygons of those in pieces
            (pixels that touch by a corner alone are two), and empty polygons of empty masks. The pixel in the upper
            left corner of the image reaches from (0, 0) to (1, 1).
    """
    corners, loops = trace(masks.pixels, masks.boxes, masks.offsets)
    if not len(loops):
        return np.full(len(masks), shapely.Polygon(), object)
    lengths, parents = loops[:, 1], _parents(loops)
    exact = _assemble(corners, lengths, loops, parents, len(masks))
    if not tolerance:
        return exact
    kept = _kept(corners, lengths, float(tolerance))
    left = np.add.reduceat(kept, np.cumsum(lengths) - lengths, dtype=np.int64)
    simple = _assemble(corners[kept], left, loops, parents, len(masks))
    return np.where(shapely.is_valid(simple), simple, exact)


def _parents(loops):
    """The loop around the piece that each loop borders, itself for those around a piece: int64 (L,)."""
    shells = np.flatnonzero(loops[:, 2] == 0)
    around = np.empty(len(shells), np.int64)
    around[loops[shells, 3]] = shells
    return around[loops[:, 3]]


def _assemble(corners, lengths, loops, parents, count):
    """Polygons, object (count,), of loops that have so many corners each."""
    cells, is_hole = loops[:, 0], loops[:, 2] == 1
    rings = shapely.linearrings(corners.astype(np.float64), indices=np.repeat(np.arange(len(loops)), lengths))
    shells = np.flatnonzero(~is_hole)
    # The shell first, then its holes.
    order = np.lexsort((np.arange(len(loops)), is_hole, parents))
    parts = shapely.polygons(rings[order], indices=np.searchsorted(shells, parents[order]))
    found = np.full(count, shapely.Polygon(), object)
    cells, firsts, counts = np.unique(cells[shells], return_index=True, return_counts=True)
    found[cells] = parts[firsts]
    for cell, first, several in zip(cells[counts > 1], firsts[counts > 1], counts[counts > 1], strict=True):
        found[cell] = shapely.multipolygons(parts[first:first + several])
    return found


@compiled
def trace(pixels, boxes, offsets):
    """The loops along the edges of the pixels of bitmaps, around their pieces and around holes in them.

    Args:
        pixels (ndarray): uint8 (P,), the bitmaps one after another.
        boxes (ndarray): int32 (N, 4), the bitmaps' x, y, w, h.
        offsets (ndarray): int64 (N + 1,), where each begins.

    Returns:
        tuple[ndarray, ndarray]: x and y of corners, int32 (V, 2), of one loop after another; and of each loop, int64
            (L, 4), its bitmap, ascending, its number of corners, 1 where it runs around a hole, and the number of the
            piece that it borders, from 0 on over all bitmaps. The mask lies to the right of the way, y pointing down; a
            loop's last corner is its first again, and no other comes twice.
    """
    most = 0
    for i in range(len(boxes)):
        most += 2 * (boxes[i, 2] * boxes[i, 3] + boxes[i, 2] + boxes[i, 3]) + 4
    # Each loop, of four edges at least, has one corner twice.
    corners, loops = np.empty((most + most // 4, 2), np.int32), np.empty((most // 4 + 1, 4), np.int64)
    size = count = pieces = 0
    for i in range(len(boxes)):
        x, y, w, h = boxes[i]
        # 0 outside of the mask; inside the number of the piece, from 1 on, or -1 as long as it has none.
        padded = np.zeros((h + 2, w + 2), np.int32)
        padded[1:-1, 1:-1] = -(pixels[offsets[i]:offsets[i + 1]].reshape(h, w) != 0).astype(np.int32)
        seen = np.zeros((h + 2, w + 2), np.bool_)
        # The corners of the loop so far, and the place of each among them, or -1.
        way, places = np.empty((2 * (w * h + w + h) + 4, 2), np.int32), np.full((h + 2, w + 2), -1)
        for top in range(1, h + 1):
            for left in range(1, w + 1):
                if not padded[top, left] or padded[top - 1, left] or seen[top, left]:
                    continue
                if padded[top, left] < 0:
                    pieces += 1
                    _number(padded, top, left, pieces, way)
                row, column, direction, closed = top, left, 0, False
                way[0], places[top, left], length = (x + left - 1, y + top - 1), 0, 1
                while not closed:
                    if direction == 0:
                        seen[row, column] = True
                    column += (direction == 0) - (direction == 2)
                    row += (direction == 1) - (direction == 3)
                    # The pixels ahead, to the right and to the left of the way.
                    right = padded[row - (direction >= 2), column - (direction == 1 or direction == 2)]
                    ahead = padded[row - (direction == 0 or direction == 3), column - (direction >= 2)]
                    turn = 0 if right and not ahead else 3 if right else 1
                    direction = (direction + turn) % 4
                    closed = row == top and column == left and direction == 0
                    first = places[row, column]
                    if turn and first < 0:
                        way[length], places[row, column] = (x + column - 1, y + row - 1), length
                        length += 1
                    elif turn:
                        # Back at a corner: what lies between is a loop.
                        start = size
                        for k in range(first, length):
                            corners[size] = way[k]
                            places[way[k, 1] - y + 1, way[k, 0] - x + 1] = -1
                            size += 1
                        corners[size] = way[first]
                        size += 1
                        places[row, column], length = first, first + 1
                        loops[count, 0], loops[count, 1] = i, size - start
                        loops[count, 2], loops[count, 3] = _is_hole(corners[start:size]), padded[top, left] - 1
                        count += 1
                places[top, left] = -1
    return corners[:size], loops[:count]


@compiled
def _number(padded, row, column, number, stack):
    """Give a number to the pixels of a piece that have none, from one of them on to their four neighbours."""
    padded[row, column], stack[0], depth = number, (row, column), 1
    while depth:
        depth -= 1
        row, column = stack[depth]
        for down, right in ((-1, 0), (0, -1), (0, 1), (1, 0)):
            if padded[row + down, column + right] < 0:
                padded[row + down, column + right] = number
                stack[depth] = row + down, column + right
                depth += 1


@compiled
def _is_hole(loop):
    """Whether a loop runs around a hole."""
    twice_area = 0
    for k in range(len(loop) - 1):
        twice_area += np.int64(loop[k, 0]) * loop[k + 1, 1] - np.int64(loop[k + 1, 0]) * loop[k, 1]
    return twice_area < 0


@compiled
def _kept(corners, lengths, tolerance):
    """Which corners of loops Douglas and Peucker (1973) leave, three of each at the least: bool (V,)."""
    kept, stack = np.zeros(len(corners), np.bool_), np.empty((len(corners) + 1, 2), np.int64)
    start = 0
    for length in lengths:
        end = start + length - 1
        # The first corner, the farthest from it, and the one farthest aside from both.
        far, _ = _farthest(corners, start, end, start, start)
        (before, least), (after, most) = (
            _farthest(corners, start, far, start, far), _farthest(corners, far, end, start, far))
        aside = before if least > most else after
        stack[0], stack[1] = (start, min(far, aside)), (min(far, aside), max(far, aside))
        stack[2], depth = (max(far, aside), end), 3
        while depth:
            depth -= 1
            first, last = stack[depth]
            kept[first] = kept[last] = True
            middle, distance = _farthest(corners, first, last, first, last)
            if distance > tolerance**2:
                stack[depth], stack[depth + 1] = (first, middle), (middle, last)
                depth += 2
        start = end + 1
    return kept


@compiled
def _farthest(corners, first, last, a, b):
    """Of the corners between `first` and `last`, the farthest from the line from a to b, and its squared distance."""
    (x, y), (dx, dy) = corners[a], corners[b] - corners[a]
    square = float(dx)**2 + float(dy)**2
    farthest, most = first, 0.0
    for k in range(first + 1, last):
        u, v = float(corners[k, 0] - x), float(corners[k, 1] - y)
        along = min(max((u * dx + v * dy) / square, 0.0), 1.0) if square > 0 else 0.0
        distance = (u - along * dx)**2 + (v - along * dy)**2
        if distance > most:
            farthest, most = k, distance
    return farthest, most
