"""Windows of images that are stored in chunks: tiles, strips or bands of rows."""
from functools import lru_cache

import numpy as np

# Decoded chunks are kept so that windows of up to so many rows, read row by row, decode none twice, up to a limit.
_ROWS_KEPT = 2048
_MOST_KEPT = 2**29


class ChunkedImage:
    """An image whose chunks are decoded when a window needs them, and kept as long as the latest windows need them.

    Rows of windows decode a chunk once, overlaps included, but for windows of more than 2,048 rows, and for images so
    wide that what is kept would be more than 512 MiB.

    Args:
        shape (tuple[int, int, int]): Height, width and number of samples.
        dtype (np.dtype): Of the samples.
        chunk_shape (tuple[int, int]): Height and width of a chunk; those at the right and lower edge are smaller.
        load (Callable[[int, int], np.ndarray]): Decodes the chunk of a row and column of chunks, of shape
            (height, width, samples).
    """

    def __init__(self, shape, dtype, chunk_shape, load):
        self.shape, self.dtype, self.chunk_shape = shape, np.dtype(dtype), chunk_shape
        chunk = chunk_shape[0] * chunk_shape[1] * shape[2] * self.dtype.itemsize
        # A window may begin and end within a chunk.
        rows, columns = -(-_ROWS_KEPT // chunk_shape[0]) + 2, -(-shape[1] // chunk_shape[1])
        self._load = lru_cache(max(1, min(rows * columns, _MOST_KEPT // chunk)))(load)

    def read(self, x, y, width, height):
        """The samples of a window that lies inside, (height, width, samples)."""
        values = np.empty((height, width, self.shape[2]), self.dtype)
        chunk_height, chunk_width = self.chunk_shape
        for row in range(y // chunk_height, (y + height - 1) // chunk_height + 1):
            for column in range(x // chunk_width, (x + width - 1) // chunk_width + 1):
                chunk, top, left = self._load(row, column), row * chunk_height - y, column * chunk_width - x
                expected = (min(chunk_height, self.shape[0] - row * chunk_height),
                            min(chunk_width, self.shape[1] - column * chunk_width), self.shape[2])
                if chunk.shape != expected:
                    raise ValueError(f'a chunk has shape {chunk.shape}, not {expected}')
                part = values[max(top, 0):top + chunk_height, max(left, 0):left + chunk_width]
                part[...] = chunk[max(-top, 0):max(-top, 0) + part.shape[0],
                                  max(-left, 0):max(-left, 0) + part.shape[1]]
        return values
