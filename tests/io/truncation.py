import numpy as np

from cellseg_mm.errors import CellDataError
from cellseg_mm.io.image import read_image


def assert_never_half_read(path):
    """However a file is cut, it is refused, or reads as the whole does: then what was cut off holds no pixel of it."""
    data, whole = path.read_bytes(), read_image(path)
    refused = 0
    for end in np.random.default_rng(0).integers(0, len(data), 60):
        path.write_bytes(data[:end])
        try:
            image = read_image(path)
        except CellDataError:
            refused += 1
        else:
            np.testing.assert_array_equal(image, whole)
    assert refused
