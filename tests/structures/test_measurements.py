"""Sizes and shapes of masks, against scikit-image's of each by itself."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import regionprops
from skimage.morphology import disk

from cellseg_mm.structures import measurements
from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.structures.measurements import mean_colors, shapes


def scene(seed, count):
    """Masks of all sizes and forms, some in pieces."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, 40, 50), bool)
    for mask in masks:
        height, width = rng.integers(1, 30, 2)
        y, x = rng.integers(0, 40 - height + 1), rng.integers(0, 50 - width + 1)
        mask[y:y + height, x:x + width] = rng.random((height, width)) < rng.choice([0.2, 0.7, 1])
        mask[y, x] = True
    return masks


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_shapes_are_those_of_regionprops(seed, count):
    masks = scene(seed, count)
    found = shapes(LocalMasks.from_bitmaps(masks))
    for i, mask in enumerate(masks):
        region, = regionprops(mask.astype(np.uint8))
        assert found.area[i] == region.area
        np.testing.assert_allclose((found.y[i], found.x[i]), region.centroid)
        assert found.perimeter[i] == pytest.approx(region.perimeter)
        assert found.major_axis[i] == pytest.approx(region.axis_major_length)
        assert found.minor_axis[i] == pytest.approx(region.axis_minor_length, abs=1e-6)
        assert found.eccentricity[i] == pytest.approx(region.eccentricity, abs=1e-6)
        assert found.solidity[i] == pytest.approx(region.solidity)
        if region.eccentricity > 1e-3:
            # Half a turn is none.
            turn = (found.orientation[i] - region.orientation) / np.pi
            assert turn == pytest.approx(round(turn), abs=1e-6)


@pytest.mark.parametrize(('turn', 'angle'), [(0, np.pi / 2), (1, 0)])
def test_orientation_is_that_of_the_long_axis(turn, angle):
    bar = np.zeros((30, 30), bool)
    bar[14:17, 3:28] = True
    assert shapes(LocalMasks.from_bitmaps(np.rot90(bar, turn)[None])).orientation[0] == pytest.approx(angle)


@pytest.mark.parametrize('sign', [1, -1])
def test_a_falling_bar_has_a_positive_angle(sign):
    rows, columns = np.mgrid[:40, :40]
    falling = abs(rows - columns)[:, ::sign] < 3
    assert shapes(LocalMasks.from_bitmaps(falling[None])).orientation[0] == pytest.approx(sign * np.pi / 4)
    assert regionprops(falling.astype(np.uint8))[0].orientation == pytest.approx(sign * np.pi / 4)


def test_a_disc_is_round():
    found = shapes(LocalMasks.from_bitmaps(np.pad(disk(20), 3)[None]))
    assert found.eccentricity[0] == pytest.approx(0, abs=1e-6)
    assert found.perimeter[0] == pytest.approx(2 * np.pi * 20, rel=0.06)


def test_empty_masks_measure_nothing():
    found = shapes(LocalMasks.from_bitmaps(np.zeros((2, 5, 5), bool)))
    assert all(np.isnan(values).all() for values in found)
    assert all(len(values) == 0 for values in shapes(LocalMasks.empty(5, 5)))


class Windows:
    """An image that is read by windows, which are noted."""

    def __init__(self, pixels):
        self.pixels, self.read_pixels = pixels, 0

    def read(self, x, y, width, height):
        assert x >= 0 < width
        assert y >= 0 < height
        assert y + height <= self.pixels.shape[0]
        assert x + width <= self.pixels.shape[1]
        self.read_pixels += width * height
        return self.pixels[y:y + height, x:x + width]


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([1, 7, 16, 2048]))
def test_mean_colors_are_those_of_each_mask_however_it_is_read(seed, side):
    masks, rng = scene(seed, 4), np.random.default_rng(seed)
    pixels, curves = rng.integers(0, 256, (40, 50, 3), np.uint8), rng.random((2, 256))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measurements, '_WINDOW', side)
        found = mean_colors(Windows(pixels), LocalMasks.from_bitmaps(masks), curves)
    expected = [[curve[pixels[mask]].mean(0) for curve in curves] for mask in masks]
    np.testing.assert_allclose(found, expected)


def test_of_an_image_only_the_surroundings_of_masks_are_read():
    masks = np.zeros((3, 5000, 5000), bool)
    masks[0, 10:30, 20:30] = masks[1, 25:35, 40:50] = masks[2, 4990:, 4950:] = True
    image = Windows(np.zeros((5000, 5000, 3), np.uint8))
    mean_colors(image, LocalMasks.from_bitmaps(masks), np.ones((1, 256)))
    assert image.read_pixels == 30 * 25 + 50 * 10


def test_empty_masks_have_no_color():
    masks = LocalMasks.from_bitmaps(np.stack([np.zeros((5, 5), bool), np.ones((5, 5), bool)]))
    found = mean_colors(Windows(np.full((5, 5, 3), 9, np.uint8)), masks, np.arange(256.0)[None])
    np.testing.assert_array_equal(found, [[[np.nan] * 3], [[9] * 3]])
