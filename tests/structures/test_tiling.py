"""Tiles cover an image and overlap."""
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellseg_mm.errors import UserError
from cellseg_mm.structures.tiling import Tiling, fitted


@st.composite
def tilings(draw):
    """Tiles whose sides are multiples of a unit, which may be 1."""
    unit = draw(st.sampled_from([1, 1, 7, 16]))
    size = unit * draw(st.integers(-(-20 // unit), 60 // unit))
    overlap = draw(st.integers(0, min(size - unit, 44)))
    return Tiling(draw(st.integers(1, 200)), draw(st.integers(1, 200)), size, overlap, unit)


def depth(tiling, tile, x, y):
    """How far a point is from the nearest border of a tile that is not the image's."""
    return min([math.inf] + [y - tile.y] * (tile.y > 0) + [x - tile.x] * (tile.x > 0)
               + [tile.y + tile.height - y] * (tile.y + tile.height < tiling.height)
               + [tile.x + tile.width - x] * (tile.x + tile.width < tiling.width))


@given(tilings())
def test_tiles_cover_the_image_and_lie_in_it(tiling):
    seen = np.zeros((tiling.height, tiling.width), int)
    for tile in tiling.tiles:
        assert tile.x + tile.width <= tiling.width
        assert tile.y + tile.height <= tiling.height
        seen[tile.y:tile.y + tile.height, tile.x:tile.x + tile.width] += 1
    assert seen.min() >= 1


@given(st.integers(1, 200), st.integers(1, 200), st.integers(20, 60), st.integers(0, 19))
def test_no_tile_lies_within_another(height, width, size, overlap):
    spans = {(tile.x, tile.x + tile.width) for tile in Tiling(height, width, size, overlap).tiles}
    assert not any(low <= first and last <= high and (low, high) != (first, last)
                   for low, high in spans for first, last in spans)


@given(st.integers(1, 200), st.sampled_from([1, 7, 16]), st.integers(2, 6), st.data())
def test_tiles_begin_at_multiples_of_the_unit_and_share_the_overlap_with_the_next(width, unit, count, data):
    size = count * unit
    overlap = data.draw(st.integers(0, size - unit))
    tiles = Tiling(1, width, size, overlap, unit).tiles
    assert tiles[0].x == 0
    for tile, following in pairwise(tiles):
        assert following.x % unit == 0
        assert tile.width == size
        assert 0 < following.x - tile.x <= size - overlap


@given(tilings(), st.randoms(use_true_random=False))
def test_the_owner_of_a_point_sees_most_around_it(tiling, random):
    points = [(random.uniform(0, tiling.width), random.uniform(0, tiling.height)) for _ in range(5)]
    owners = tiling.owners(np.array(points))
    for (x, y), owner in zip(points, owners.tolist(), strict=True):
        depths = [depth(tiling, tile, x, y) for tile in tiling.tiles]
        assert depths[owner] == pytest.approx(max(depths))
        assert tiling.depths(np.array([[x, y]]), [owner])[0] == pytest.approx(depths[owner])


@given(tilings(), st.randoms(use_true_random=False))
def test_the_owner_is_one_of_the_tiles_that_were_seen(tiling, random):
    seen = np.array([random.random() < 0.4 for _ in tiling.tiles])
    points = np.array([[random.uniform(0, tiling.width), random.uniform(0, tiling.height)] for _ in range(5)])
    depths = np.array([[depth(tiling, tile, x, y) for tile in tiling.tiles] for x, y in points])
    depths[:, ~seen] = -1
    shown = depths.max(1) >= 0
    owners = tiling.owners(points[shown], seen)
    assert seen[owners].all()
    np.testing.assert_allclose(depths[shown, owners], depths[shown].max(1))


@given(st.integers(1, 200), st.integers(1, 200))
def test_tiles_are_all_of_one_size_and_no_more_than_it_takes(height, width):
    tiles = Tiling(height, width, 50, 12).tiles
    assert {tile[2:] for tile in tiles} == {(min(width, 50), min(height, 50))}
    assert len(tiles) == math.prod(max(math.ceil((length - 12) / 38), 1) for length in (height, width))


@pytest.mark.parametrize('overlap', [-1, 64, 90])
def test_tiles_that_cannot_go_on_are_refused(overlap):
    with pytest.raises(UserError, match=f'tiles of 64 pixels cannot overlap by {overlap}'):
        Tiling(500, 500, 64, overlap)


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([1, 7, 16]), st.integers(2, 70), st.data())
def test_fitted_tiles_are_the_smallest_of_as_many_rows_and_columns(height, width, unit, size, data):
    size = max(size, unit)
    overlap = data.draw(st.integers(0, size - unit))

    def counts(size):
        tiles = Tiling(height, width, size, overlap, unit).tiles
        return len({tile.y for tile in tiles}), len({tile.x for tile in tiles})

    rows, columns = counts(size)
    sizes = [side for side in range(overlap + unit, size + 1)
             if counts(side)[0] <= rows and counts(side)[1] <= columns]
    assert fitted(height, width, size, overlap, unit) == min(sizes)
