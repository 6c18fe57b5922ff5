"""Cells of tiles become the image's, each once and whole."""
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg_mm.structures.bitmaps import offsets_of
from cellseg_mm.structures.cells import Cells
from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.structures.merging import merge
from cellseg_mm.structures.tiling import Tiling


def discs(seed, count, height, width, radii):
    """Discs that do not overlap."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    taken, masks = np.zeros((height, width), bool), []
    for _ in range(count):
        y, x, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(*radii)
        mask = (rows - y)**2 + (columns - x)**2 <= radius**2
        if mask.any() and not (mask & taken).any():
            masks.append(mask)
            taken |= mask
    masks = LocalMasks.from_bitmaps(np.array(masks)) if masks else LocalMasks.empty(height, width)
    return Cells(masks, rng.integers(0, 4, len(masks)), rng.uniform(0.3, 1, len(masks)).astype(np.float32))


def seen_in(cells, tile):
    """What a perfect network finds in a tile."""
    masks = cells.masks._window(tile.x, tile.y, tile.height, tile.width)
    return Cells(masks, cells.labels, cells.scores)[masks.boxes[:, 2] > 0]


def as_set(cells):
    return {(*box, label, score, rle['counts']) for box, label, score, rle in zip(
        map(tuple, cells.masks.boxes.tolist()), cells.labels.tolist(), cells.scores.tolist(), cells.masks.to_rles(),
        strict=True)}


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(80, 200), st.integers(80, 200), st.integers(64, 90))
def test_cells_cut_by_tiles_come_out_once_and_whole(seed, height, width, size):
    cells = discs(seed, 60, height, width, (1, 10))
    tiling = Tiling(height, width, size, 24)
    merged = merge(tiling, [seen_in(cells, tile) for tile in tiling.tiles])
    assert as_set(merged) == as_set(cells)
    assert len(merged) == len(cells)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6))
def test_cells_larger_than_the_overlap_are_put_together(seed):
    cells = discs(seed, 12, 200, 220, (20, 45))
    tiling = Tiling(200, 220, 80, 16)
    merged = merge(tiling, [seen_in(cells, tile) for tile in tiling.tiles])
    assert {rle['counts'] for rle in merged.masks.to_rles()} == {rle['counts'] for rle in cells.masks.to_rles()}
    assert len(merged) == len(cells)



def cells_of(blocks, tile, scores=None):
    boxes = np.array(blocks, np.int64).reshape(-1, 4)
    return Cells(LocalMasks(np.ones(offsets_of(boxes)[-1], np.uint8), boxes, tile.height, tile.width),
                 np.zeros(len(boxes), np.int64), np.float32(scores if scores else [0.9] * len(boxes)))


TILING = Tiling(60, 160, 100, 40)  # columns 0 to 100 and 60 to 160; the middle of what they share is 80


def test_tiles_that_disagree_by_a_pixel_do_not_lose_a_cell_between_them():
    left, right = TILING.tiles
    # Each tile sees the centre on the other's side, or each on its own.
    for first, second in (((72, 20, 17, 10), (72, 20, 15, 10)), ((72, 20, 15, 10), (72, 20, 17, 10))):
        merged = merge(TILING, [cells_of([first], left), cells_of([(second[0] - 60, *second[1:])], right)])
        assert len(merged) == 1


def test_what_the_tile_that_sees_less_adds_is_left_out():
    left, right = TILING.tiles
    # Only the left tile finds this one, close to its right border, where the right tile sees nothing.
    assert not len(merge(TILING, [cells_of([(90, 20, 6, 10)], left), cells_of([], right)]))
    assert len(merge(TILING, [cells_of([(66, 20, 6, 10)], left), cells_of([], right)])) == 1


def test_cells_within_others_stay_as_the_network_found_them():
    left, right = TILING.tiles
    nested = [(65, 10, 30, 30), (75, 20, 6, 6)]
    merged = merge(TILING, [cells_of(nested, left), cells_of([(x - 60, *rest) for x, *rest in nested], right)])
    assert sorted(merged.masks.boxes.tolist()) == sorted(map(list, nested))


def test_a_remnant_at_the_border_that_matches_nothing_yields_to_the_whole_cell():
    left, right = TILING.tiles
    # The left tile sees 20 columns of a cell of 90, and takes the upper half of them for a cell.
    merged = merge(TILING, [cells_of([(80, 10, 20, 12)], left), cells_of([(20, 10, 70, 40)], right)])
    assert merged.masks.boxes.tolist() == [[80, 10, 70, 40]]


def test_one_tile_is_the_image():
    tiling = Tiling(50, 40, 64, 16)
    cells = discs(3, 20, 50, 40, (2, 8))
    assert as_set(merge(tiling, [cells])) == as_set(cells)


def test_no_cell_at_all():
    merged = merge(TILING, [Cells.none(60, 100)] * 2)
    assert len(merged) == 0
    assert (merged.masks.height, merged.masks.width) == (60, 160)
