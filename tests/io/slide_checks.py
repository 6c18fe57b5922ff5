"""What has to hold for every slide, however it is stored."""
import numpy as np

from cellseg_mm.io.slide import open_slide


def assert_windows_equal(path, whole, seed=0, count=12):
    """Random windows of a file, one pixel and all of it among them, are those of `whole`, BGR."""
    height, width = whole.shape[:2]
    with open_slide(path) as slide:
        assert (slide.height, slide.width) == (height, width)
        for x, y, w, h in [(0, 0, width, height), (width - 1, height - 1, 1, 1),
                           *random_windows(height, width, seed, count)]:
            window = slide.read(x, y, w, h)
            assert window.dtype == np.uint8
            assert window.flags.c_contiguous
            assert window.flags.writeable
            np.testing.assert_array_equal(window, whole[y:y + h, x:x + w])


def random_windows(height, width, seed, count):
    """Windows (x, y, width, height) inside an image."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        yield x, y, int(rng.integers(1, width - x + 1)), int(rng.integers(1, height - y + 1))
