"""Sizes and shapes of masks, against scikit-image's of each by itself."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import regionprops
from skimage.morphology import disk

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


@pytest.mark.parametrize(('turn', 'angle'), [(0, 0), (1, np.pi / 2)])
def test_orientation_is_that_of_the_long_axis(turn, angle):
    bar = np.zeros((30, 30), bool)
    bar[14:17, 3:28] = True
    assert abs(shapes(LocalMasks.from_bitmaps(np.rot90(bar, turn)[None])).orientation[0]) == pytest.approx(angle)


def test_a_rising_bar_has_a_positive_angle():
    rows, columns = np.mgrid[:40, :40]
    rising = (abs((39 - rows) - columns) < 3)[None]
    assert shapes(LocalMasks.from_bitmaps(rising)).orientation[0] == pytest.approx(np.pi / 4)


def test_a_disc_is_round():
    found = shapes(LocalMasks.from_bitmaps(np.pad(disk(20), 3)[None]))
    assert found.eccentricity[0] == pytest.approx(0, abs=1e-6)
    assert found.perimeter[0] == pytest.approx(2 * np.pi * 20, rel=0.06)


def test_empty_masks_measure_nothing():
    found = shapes(LocalMasks.from_bitmaps(np.zeros((2, 5, 5), bool)))
    assert all(np.isnan(values).all() for values in found)
    assert all(len(values) == 0 for values in shapes(LocalMasks.empty(5, 5)))


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=20)
def test_mean_colours_are_those_of_each_mask(seed):
    masks = scene(seed, 4)
    image = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8)
    expected = [image[mask].mean(0) for mask in masks]
    np.testing.assert_allclose(mean_colors(image, LocalMasks.from_bitmaps(masks)), expected)
