import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellseg_mm.io import chunks
from cellseg_mm.io.chunks import ChunkedImage


def chunked(array, height, width):
    """An image in chunks, and a list of those that were loaded."""
    loaded = []

    def load(row, column):
        loaded.append((row, column))
        return array[row * height:(row + 1) * height, column * width:(column + 1) * width]

    return ChunkedImage(array.shape, array.dtype, (height, width), load), loaded


@given(st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(1, 3)), st.integers(1, 35), st.integers(1, 35),
       st.data())
def test_windows_are_slices(shape, height, width, data):
    array = np.random.default_rng(0).integers(0, 65536, shape, np.uint16)
    image, _ = chunked(array, height, width)
    x, y = data.draw(st.integers(0, shape[1] - 1)), data.draw(st.integers(0, shape[0] - 1))
    w, h = data.draw(st.integers(1, shape[1] - x)), data.draw(st.integers(1, shape[0] - y))
    window = image.read(x, y, w, h)
    assert window.dtype == np.uint16
    np.testing.assert_array_equal(window, array[y:y + h, x:x + w])


@pytest.mark.parametrize(('height', 'width', 'window'), [(256, 256, 1000), (100, 256, 2048), (7, 2500, 2048),
                                                         (3000, 100, 2048)])
def test_rows_of_overlapping_windows_load_each_chunk_once(height, width, window):
    image, loaded = chunked(np.zeros((6100, 2600, 1), np.uint8), height, width)
    for y in range(0, 6101 - window, 3 * window // 4 + 1):
        for x in range(0, 2601 - window, window // 4):
            image.read(x, y, window, window)
    assert len(loaded) == len(set(loaded))


def test_what_is_kept_has_a_limit(monkeypatch):
    monkeypatch.setattr(chunks, '_MOST_KEPT', 10 * 16 * 16)
    image, loaded = chunked(np.zeros((64, 160, 1), np.uint8), 16, 16)
    image.read(0, 0, 160, 16)
    image.read(0, 0, 160, 16)
    assert len(loaded) == 10
    image.read(0, 0, 160, 64)
    loaded.clear()
    image.read(0, 0, 160, 48)
    assert len(loaded) == 30


def test_chunks_of_another_shape_are_no_pixels():
    image = ChunkedImage((20, 20, 1), np.uint8, (16, 16), lambda *_: np.zeros((16, 16, 1), np.uint8))
    image.read(0, 0, 16, 16)
    with pytest.raises(ValueError, match=r'a chunk has shape \(16, 16, 1\), not \(16, 4, 1\)'):
        image.read(0, 0, 17, 16)
