"""Tiles cover an image and overlap."""
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellseg_mm.errors import UserError
from cellseg_mm.structures.tiling import Tiling

tilings = st.builds(
    Tiling, st.integers(1, 200), st.integers(1, 200), st.integers(20, 60), st.integers(0, 19))


@given(tilings)
def test_tiles_cover_the_image_and_lie_in_it(tiling):
    seen = np.zeros((tiling.height, tiling.width), int)
    for tile in tiling.tiles:
        assert tile.x + tile.width <= tiling.width
        assert tile.y + tile.height <= tiling.height
        seen[tile.y:tile.y + tile.height, tile.x:tile.x + tile.width] += 1
    assert seen.min() >= 1


@given(tilings)
def test_no_tile_lies_within_another(tiling):
    spans = {(tile.x, tile.x + tile.width) for tile in tiling.tiles}
    assert not any(low <= first and last <= high and (low, high) != (first, last)
                   for low, high in spans for first, last in spans)


@given(tilings, st.randoms(use_true_random=False))
def test_the_owner_of_a_point_sees_most_around_it(tiling, random):
    points = np.array([[random.uniform(0, tiling.width), random.uniform(0, tiling.height)] for _ in range(20)])
    owners = tiling.owners(points)
    depths = np.array([tiling.depths(points, np.full(len(points), tile)) for tile in range(len(tiling.tiles))])
    np.testing.assert_allclose(depths[owners, np.arange(len(points))], depths.max(0))


@given(st.integers(1, 200), st.integers(1, 200))
def test_tiles_are_all_of_one_size_and_no_more_than_it_takes(height, width):
    tiles = Tiling(height, width, 50, 12).tiles
    assert {tile[2:] for tile in tiles} == {(min(width, 50), min(height, 50))}
    assert len(tiles) == math.prod(max(math.ceil((length - 12) / 38), 1) for length in (height, width))


@pytest.mark.parametrize('overlap', [-1, 64, 90])
def test_tiles_that_cannot_go_on_are_refused(overlap):
    with pytest.raises(UserError, match=f'tiles of 64 pixels cannot overlap by {overlap}'):
        Tiling(500, 500, 64, overlap)
