import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg_mm.io import levels, slide
from cellseg_mm.io.levels import overview
from cellseg_mm.io.slide import ArrayImage


def area_means(bgr, height, width):
    """Each cell's mean, pixel by pixel: what `overview` has to give."""
    def shares(length, cells):
        edges, cell = np.arange(length + 1) * cells / length, np.arange(cells)[:, None]
        return np.maximum(0, np.minimum(edges[1:], cell + 1) - np.maximum(edges[:-1], cell))
    return np.einsum('iy,jx,yxc->ijc', shares(bgr.shape[0], height), shares(bgr.shape[1], width), bgr)


@settings(max_examples=40)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 80), st.sampled_from([9, 16, 30, 1024]))
def test_overviews_are_means_of_areas_however_they_are_read(height, width, side, window):
    bgr = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels, '_WINDOW', window)
        view = ArrayImage(bgr).overview(side)
    assert view.dtype == np.uint8
    assert max(view.shape[:2]) == min(side, max(height, width))
    assert np.abs(view - area_means(bgr, *view.shape[:2])).max() <= 0.501


def test_overviews_of_large_levels_are_read_once(monkeypatch):
    monkeypatch.setattr(slide, '_KEPT_SIDE', 100)
    bgr = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8), (0, 0), 3)
    small, reads = bgr[::6, :198:6], []

    def level(array):
        def read(x, y, width, height):
            reads.append(array.shape[0])
            return array[y:y + height, x:x + width].copy()
        return levels.Level(*array.shape[:2], read)

    views = []
    for sides in ((60, 100, 80), (80, 100, 60)):
        with slide.Slide(None, [level(bgr), level(small)]) as image:
            views.append({side: image.overview(side) for side in sides})
            assert reads == [300]
            np.testing.assert_array_equal(image.overview(50), small)
            image.overview(120)
        assert reads == [300, 50, 300]
        reads.clear()
    for side, view in views[0].items():
        np.testing.assert_array_equal(view, views[1][side])
        # Means of means, whose areas cross.
        expected = cv2.resize(bgr, view.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(view.astype(int) - expected).mean() < 1


@pytest.mark.parametrize('side', [1500, 1000, 700, 333, 100, 5])
def test_overviews_are_what_opencv_gives_of_the_whole(side):
    bgr = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (1000, 1500, 3), np.uint8), (0, 0), 3)
    view = ArrayImage(bgr).overview(side)
    expected = cv2.resize(bgr, view.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(view.astype(int) - expected).max() <= 1


def test_overviews_of_lines_are_lines():
    line = np.full((1, 5000, 3), 77, np.uint8)
    assert ArrayImage(line).overview(10).tolist() == [[[77] * 3] * 10]
    assert ArrayImage(line.swapaxes(0, 1)).overview(10).tolist() == [[[77] * 3]] * 10


def test_levels_that_are_too_small_on_one_side_are_not_enlarged():
    read = []

    def level(height, width):
        def window(x, y, w, h):
            read.append((height, width))
            return np.zeros((h, w, 3), np.uint8)
        return levels.Level(height, width, window)

    overview([level(400, 200), level(200, 99), level(50, 25)], 200)
    assert set(read) == {(400, 200)}
