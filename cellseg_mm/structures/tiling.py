"""Overlapping tiles that cover an image."""
import math
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np

from cellseg_mm.errors import UserError


class Tile(NamedTuple):
    """A window of an image, in its pixels."""

    x: int
    y: int
    width: int
    height: int


class Tiling:
    """Tiles of an image of (height, width), row by row: all of `size` pixels, or up to the end of the image.

    Args:
        height (int): Rows of the image.
        width (int): Columns of the image.
        size (int): Pixels of a tile along each side.
        overlap (int): Pixels that neighbours share, at the least.
        unit (int): Tiles begin at multiples of this; the last ones, too, which are smaller then.

    Attributes:
        tiles (list[Tile]): All of them.

    Raises:
        UserError: If the overlap leaves tiles no way to go on, or is negative.
    """

    def __init__(self, height, width, size, overlap, unit=1):
        if not 0 <= overlap <= size - unit:
            raise UserError(f'tiles of {size} pixels cannot overlap by {overlap}: take larger tiles, or less overlap')
        self.height, self.width, self.size = height, width, size
        # Of two tiles that show a point, one comes so many after the other along an axis, at the most.
        self._reach = math.ceil(size / ((size - overlap) // unit * unit))
        self._columns, self._rows = (_starts(length, size, overlap, unit) for length in (width, height))
        self.tiles = [Tile(x, y, min(size, width - x), min(size, height - y)) for y in self._rows
                      for x in self._columns]
        # Inner borders: float64 (T, 2) each, infinite where there is none.
        corners = np.array(self.tiles, np.float64)
        self._first, self._last = corners[:, :2], corners[:, :2] + corners[:, 2:]
        self._first[self._first == 0], self._last[self._last == (width, height)] = -np.inf, np.inf

    def owners(self, points, seen=None):
        """The tile that sees most around each point: the one whose inner borders are farthest away.

        Args:
            points (ndarray): float (N, 2), x and y in pixels of the image.
            seen (ndarray, optional): bool (T,), the tiles that count, of which each point lies in one; by default all.

        Returns:
            ndarray: int64 (N,), indices of tiles.
        """
        column, row = (np.searchsorted(_middles(starts, self.size), points[:, axis], side='right')
                       for axis, starts in enumerate((self._columns, self._rows)))
        owners = row * len(self._columns) + column
        if seen is not None:
            lost = np.flatnonzero(~seen[owners])
            owners[lost] = self._deepest(points[lost], column[lost], row[lost], seen)
        return owners

    def _deepest(self, points, column, row, seen):
        """Of the tiles seen that are near enough to that at (column, row) to show each point, the deepest around it."""
        best, depths = np.zeros(len(points), np.int64), np.full(len(points), -np.inf)
        for down, right in product(range(-self._reach, self._reach + 1), repeat=2):
            x, y = column + right, row + down
            inside = (x >= 0) & (x < len(self._columns)) & (y >= 0) & (y < len(self._rows))
            tiles = np.where(inside, y * len(self._columns) + x, 0)
            deep = np.where(inside & seen[tiles], self.depths(points, tiles), -np.inf)
            best, depths = np.where(deep > depths, tiles, best), np.maximum(deep, depths)
        return best

    def depths(self, points, tiles):
        """How far points are from the nearest inner border of a tile each, in pixels: float64 (N,); may be infinite."""
        return np.minimum(points - self._first[tiles], self._last[tiles] - points).min(1)


def fitted(height, width, size, overlap, unit=1):
    """The smallest tiles that cover an image in no more rows and columns than tiles of `size` do.

    Args:
        height (int): Rows of the image.
        width (int): Columns of the image.
        size (int): Pixels of a tile along each side, at the most.
        overlap (int): Of `Tiling`, as `unit`.
        unit (int): See there.

    Returns:
        int: Pixels of a tile along each side.
    """
    sides = [overlap + unit]
    for length in (height, width):
        tiles = len(_starts(length, size, overlap, unit))
        least = max(-(-(length + (tiles - 1) * overlap) // tiles), overlap + unit)
        sides.append(next((side for side in range(least, size)
                           if len(_starts(length, side, overlap, unit)) == tiles), size))
    return max(sides)


def _starts(length, size, overlap, unit):
    last = -(-max(length - size, 0) // unit) * unit
    return [*range(0, last, (size - overlap) // unit * unit), last]


def _middles(starts, size):
    """The middles of what neighbours share."""
    return [(start + size + following) / 2 for start, following in pairwise(starts)]
