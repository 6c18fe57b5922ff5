"""The resolutions of an image, each read window by window."""
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from cellseg_mm.io.raster import Span, check_finite, extremes, spans, to_bgr
from cellseg_mm.io.reading import reading

# Up to this many bytes of samples, percentiles are taken over all of them.
READ_WHOLE = 2**27
# Beyond it, over 16 x 16 squares of 256 x 256 pixels, spread evenly.
_SQUARES, _SQUARE = 16, 256
_WINDOW = 1024


class Level(NamedTuple):
    """One resolution of an image.

    Attributes:
        height: In pixels.
        width: In pixels.
        read: Reads a window that lies inside, as a function of x, y, width and height: a `Raster`, or uint8
            (height, width, 3) BGR.
    """

    height: int
    width: int
    read: Any


def raster_level(raster):
    """The level of an image that is in memory."""
    return Level(*raster.values.shape[:2],
                 lambda x, y, width, height: raster._replace(values=raster.values[y:y + height, x:x + width]))


def bgr_levels(path, levels, percentiles):
    """Levels of samples as levels of BGR, all windows scaled alike.

    Args:
        path (str | Path): The file, for errors.
        levels (list[Level]): Of `Raster`, from the largest down.
        percentiles (tuple[float, float]): See `image.read_image`. They are those of the largest level; beyond
            `READ_WHOLE` bytes those of 16 x 16 squares of 256 x 256 pixels, spread evenly over it, or, for a channel of
            which those show nothing, its extremes.

    Returns:
        list[Level]: Of uint8 (height, width, 3) BGR. Whatever goes wrong in one of their reads is a CellDataError.

    Raises:
        CellDataError: If it cannot be read, or has no finite pixel.
    """
    with reading(path):
        shown = _spans(levels[0], percentiles)
        check_finite(path, shown)
    return [level._replace(read=partial(_read_bgr, path, level.read, shown)) for level in levels]


def _read_bgr(path, read, shown, *window):
    with reading(path):
        return to_bgr(read(*window), shown)


def _spans(level, percentiles):
    corner = level.read(0, 0, 1, 1)
    if not corner.is_scaled:
        return []
    if level.height * level.width * corner.values.nbytes <= READ_WHOLE:
        return spans(level.read(0, 0, level.width, level.height), percentiles)
    squares = [level.read(x, y, min(_SQUARE, level.width), min(_SQUARE, level.height)).values
               for y in _spread(level.height) for x in _spread(level.width)]
    sample = corner._replace(values=np.concatenate([values.reshape(1, -1, values.shape[-1]) for values in squares], 1))
    shown = [span if span and span.low < span.high else None for span in spans(sample, percentiles)]
    if None not in shown:
        return shown
    # The squares show nothing of a channel: what little there is lies between them.
    whole = [None] * len(shown)
    for window in windows(level.height, level.width):
        whole = [_union(*pair) for pair in zip(whole, extremes(level.read(*window)), strict=True)]
    return [span or all_of_it for span, all_of_it in zip(shown, whole, strict=True)]


def _spread(length):
    """Where the squares begin along an axis."""
    return sorted(set(np.linspace(0, max(length - _SQUARE, 0), _SQUARES).astype(int).tolist()))


def _union(span, other):
    return Span(min(span.low, other.low), max(span.high, other.high)) if span and other else span or other


def windows(height, width):
    """Windows (x, y, width, height) that cover an image, row by row."""
    return [(x, y, min(_WINDOW, width - x), min(_WINDOW, height - y))
            for y in range(0, height, _WINDOW) for x in range(0, width, _WINDOW)]


def array_level(bgr):
    """The level of a BGR image that is in memory."""
    return Level(*bgr.shape[:2], lambda x, y, width, height: bgr[y:y + height, x:x + width].copy())


def level_for(levels, side):
    """The smallest level that has the pixels of an overview, and the overview's height and width."""
    scale = min(1, side / max(levels[0].height, levels[0].width))
    height, width = (max(1, round(length * scale)) for length in levels[0][:2])
    return [level for level in levels if level.height >= height and level.width >= width][-1], height, width


def overview(levels, side):
    """Show all of an image in few pixels, each the mean of the area it stands for.

    Args:
        levels (list[Level]): Of BGR, from the largest down.
        side (int): At most how long the longer side becomes; smaller images stay as they are.

    Returns:
        np.ndarray: uint8 (h, w, 3), BGR.
    """
    level, height, width = level_for(levels, side)
    view = np.empty((height, width, 3), np.uint8)
    if (level.height, level.width) == (height, width):
        for x, y, window_width, window_height in windows(height, width):
            view[y:y + window_height, x:x + window_width] = level.read(x, y, window_width, window_height)
        return view
    reached, unfinished = 0, 0.0
    for y in range(0, level.height, _WINDOW):
        window_height = min(_WINDOW, level.height - y)
        rows, row_shares = _shares(y, window_height, level.height, height)
        means = np.zeros((rows.stop - rows.start, width, 3), np.float32)
        for x, _, window_width, _ in windows(1, level.width):
            bgr = level.read(x, y, window_width, window_height).reshape(window_height, -1).astype(np.float32)
            columns, column_shares = _shares(x, window_width, level.width, width)
            reduced = (row_shares @ bgr).reshape(-1, window_width, 3).swapaxes(0, 1)
            reduced = (column_shares @ reduced.reshape(window_width, -1)).reshape(-1, len(means), 3)
            means[:, columns] += reduced.swapaxes(0, 1)
        # The last row goes on below where the windows end within its cells.
        if rows.start < reached:
            means[0] += unfinished
        view[rows], reached, unfinished = np.rint(means), rows.stop, means[-1]
    return view


def _shares(start, count, length, reduced):
    """Which of `reduced` cells the pixels from `start` fall into, and what share of each cell every one of them has.

    Returns:
        tuple[slice, scipy.sparse.csr_matrix]: The cells, and a float32 (cells, count) matrix.
    """
    size = length / reduced
    edges = np.arange(start, start + count + 1) / size
    first = np.floor(edges[:-1] + 1e-9).astype(int)
    last = np.ceil(edges[1:] - 1e-9).astype(int) - 1
    # A pixel is no larger than a cell, so that it lies in one cell or across the edge of two.
    inside = np.minimum(edges[1:], first + 1) - edges[:-1]
    crosses = last > first
    cells = np.concatenate([first, last[crosses]])
    pixels = np.concatenate([np.arange(count), np.flatnonzero(crosses)])
    shares = np.concatenate([inside, (edges[1:] - last)[crosses]])
    hit = slice(first[0], last[-1] + 1)
    entries = shares.astype(np.float32), (cells - hit.start, pixels)
    return hit, sparse.csr_matrix(entries, (hit.stop - hit.start, count))
