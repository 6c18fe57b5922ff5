"""Outlines of masks as polygons."""
import time

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label
from shapely.geometry import box

from cellseg_mm.structures.contours import polygons
from cellseg_mm.structures.local_masks import LocalMasks


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 10**6), st.sampled_from([0.3, 0.5, 0.7, 0.9]))
def test_an_outline_covers_the_pixels_of_its_mask(seed, share):
    masks = np.random.default_rng(seed).random((3, 9, 11)) < share
    found = polygons(LocalMasks.from_bitmaps(masks))
    for mask, polygon in zip(masks, found, strict=True):
        pixels = shapely.union_all([box(x, y, x + 1, y + 1) for y, x in np.argwhere(mask)])
        assert polygon.is_valid
        assert shapely.symmetric_difference(polygon, pixels).area == 0


def test_holes_lie_in_the_piece_around_them():
    mask = np.zeros((20, 30), bool)
    mask[2:12, 2:12] = True
    mask[4:10, 4:10] = False
    mask[6:8, 6:8] = True  # a piece within the hole
    mask[3:9, 20:28] = True
    mask[5, 22] = False
    polygon, = polygons(LocalMasks.from_bitmaps(mask[None]))
    assert polygon.is_valid
    assert sorted(len(part.interiors) for part in polygon.geoms) == [0, 1, 1]
    assert polygon.area == mask.sum()


def test_outlines_of_noise_take_no_time_for_each_pair_of_piece_and_hole():
    polygons(LocalMasks.from_bitmaps(np.ones((1, 5, 5), bool)), 0.5)  # compiled
    mask = np.random.default_rng(0).random((500, 500)) < 0.6
    start = time.process_time()
    polygon, = polygons(LocalMasks.from_bitmaps(mask[None]), 0.5)
    assert time.process_time() - start < 5
    assert len(polygon.geoms) == label(mask)[1]


def test_simplified_outlines_have_few_corners():
    rows, columns = np.mgrid[:60, :60]
    masks = LocalMasks.from_bitmaps(((rows - 30)**2 + (columns - 28)**2 < 24**2)[None])
    exact, = polygons(masks)
    simple, = polygons(masks, tolerance=1.0)
    assert len(simple.exterior.coords) < len(exact.exterior.coords) / 4
    assert simple.area == pytest.approx(exact.area, rel=0.03)


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.3, 0.7, 0.9, 0.97]), st.sampled_from([0.5, 0.75, 1, 3.0]))
def test_simplified_outlines_are_valid_and_stay_within_the_tolerance(seed, share, tolerance):
    masks = LocalMasks.from_bitmaps(np.random.default_rng(seed).random((4, 12, 15)) < share)
    for exact, simple in zip(polygons(masks), polygons(masks, tolerance), strict=True):
        assert simple.is_valid
        assert simple.is_empty == exact.is_empty
        assert len(shapely.get_rings(shapely.get_parts(simple))) == len(shapely.get_rings(shapely.get_parts(exact)))
        if not exact.is_empty:
            assert simple.area > 0
            # Halfway between corners, too.
            assert shapely.hausdorff_distance(exact, simple, densify=0.5) <= tolerance + 1e-9


def test_masks_without_pixels_have_empty_outlines():
    found = polygons(LocalMasks.from_bitmaps(np.stack([np.zeros((5, 5), bool), np.eye(5, dtype=bool)])))
    assert found[0].is_empty
    assert len(found[1].geoms) == 5
    assert len(polygons(LocalMasks.empty(4, 4))) == 0
