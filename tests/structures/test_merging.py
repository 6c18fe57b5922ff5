"""Cells of tiles become the image's, each once and whole."""
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cellseg_mm.structures.bitmaps import offsets_of
from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.structures.merging import merge
from cellseg_mm.structures.tiling import Tiling


def discs(seed, count, height, width, radii):
    """Discs that do not overlap, and their scores."""
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
    return masks, rng.uniform(0.3, 1, len(masks))


def seen_in(masks, scores, tile):
    """What a perfect network finds in a tile, a mask without pixels for each cell that it does not show."""
    return masks.crop(np.array([tile.x, tile.y, tile.x + tile.width, tile.y + tile.height])), scores


def merge_all(tiling, found, **options):
    parts, scores = zip(*found, strict=True)
    return merge(tiling, parts, np.concatenate(scores), **options)


def encoded(masks):
    return sorted(rle['counts'] for rle in masks.to_rles())


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(80, 200), st.integers(80, 200), st.integers(64, 90))
def test_cells_cut_by_tiles_come_out_once_and_whole(seed, height, width, size):
    masks, scores = discs(seed, 60, height, width, (1, 10))
    tiling = Tiling(height, width, size, 24)
    merged, kept = merge_all(tiling, [seen_in(masks, scores, tile) for tile in tiling.tiles])
    assert encoded(merged) == encoded(masks)
    cells = kept % max(len(masks), 1)  # each tile has a mask of each cell
    assert len(set(cells.tolist())) == len(masks)
    assert encoded(merged) == encoded(masks[cells])
    assert merged[np.argsort(cells)].to_rles() == masks.to_rles()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(80, 200), st.integers(80, 200), st.integers(4, 6), st.sampled_from([8, 16]))
def test_tiles_at_multiples_of_a_unit_do_as_well(seed, height, width, count, unit):
    masks, scores = discs(seed, 60, height, width, (1, 10))
    tiling = Tiling(height, width, count * unit, 24, unit)
    merged, _ = merge_all(tiling, [seen_in(masks, scores, tile) for tile in tiling.tiles])
    assert encoded(merged) == encoded(masks)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(0, 12), st.sampled_from([(1, 10), (10, 40)]))
def test_tiles_without_a_cell_need_not_be_looked_at(seed, count, radii):
    masks, scores = discs(seed, count, 200, 220, radii)
    tiling = Tiling(200, 220, 80, 24)
    found = [seen_in(masks, scores, tile) for tile in tiling.tiles]
    parts = [part[part.boxes[:, 2] > 0] if part.boxes[:, 2].any() else None for part, _ in found]
    sure = np.concatenate([scores[part.boxes[:, 2] > 0] for part, scores in found])
    merged, _ = merge(tiling, parts, sure)
    assert encoded(merged) == encoded(masks)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([0.2, 0.5, 0.8]), st.sampled_from([24, 44]))
def test_no_cell_is_left_out_for_a_tile_that_was_not_looked_at(seed, share, overlap):
    masks, scores = discs(seed, 40, 200, 220, (1, 10))
    tiling = Tiling(200, 220, 80, overlap)
    found = [seen_in(masks, scores, tile) for tile in tiling.tiles]
    looked_at = np.random.default_rng(seed).random(len(found)) < share
    parts = [part if seen else None for (part, _), seen in zip(found, looked_at, strict=True)]
    merged, kept = merge(tiling, parts, np.tile(scores, looked_at.sum()))
    shown = np.zeros((200, 220), bool)
    for tile in np.array(tiling.tiles)[looked_at]:
        shown[tile[1]:tile[1] + tile[3], tile[0]:tile[0] + tile[2]] = True
    np.testing.assert_array_equal(merged.to_label_map() > 0, shown & (masks.to_label_map() > 0))
    assert set((kept % max(len(masks), 1)).tolist()) == {number for number, mask in enumerate(masks)
                                                         if (shown & (mask > 0)).any()}


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6))
def test_cells_larger_than_the_overlap_are_put_together(seed):
    masks, scores = discs(seed, 20, 200, 220, (4, 45))
    tiling = Tiling(200, 220, 80, 16)
    merged, _ = merge_all(tiling, [seen_in(masks, scores, tile) for tile in tiling.tiles])
    assert encoded(merged) == encoded(masks)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 0.8, 1.0]))
@example(385, 1.0)  # each of three tiles finds that another one sees most around the cell
@example(121, 1.0)
def test_tiles_that_see_cells_a_little_otherwise_find_each_once(seed, found_share):
    rng = np.random.default_rng(seed)
    tiling = Tiling(180, 190, 70, 30)
    # Cells far apart, of which each tile sees a version of its own, or none.
    middles = [(y, x) for y in range(14, 170, 27) for x in range(14, 180, 27)]
    radii, sure, found = rng.integers(5, 9, len(middles)), rng.uniform(0.1, 1, len(middles)), []
    for tile in tiling.tiles:
        rows, columns = np.mgrid[tile.y:tile.y + tile.height, tile.x:tile.x + tile.width]
        masks = np.zeros((len(middles), tile.height, tile.width), bool)
        for number, (y, x) in enumerate(middles):
            if rng.random() < found_share:
                dy, dx, larger = rng.integers(-1, 2, 3)
                masks[number] = (rows - y - dy)**2 + (columns - x - dx)**2 <= (radii[number] + larger)**2
        found.append((LocalMasks.from_bitmaps(masks), sure * rng.uniform(0.5, 1, len(middles))))
    merged, _ = merge_all(tiling, found)
    centers = merged.boxes[:, :2] + merged.boxes[:, 2:] / 2
    nearest = [int(np.argmin([(cy - y)**2 + (cx - x)**2 for y, x in middles])) for cx, cy in centers]
    assert len(set(nearest)) == len(nearest)
    if found_share == 1:
        assert len(nearest) == len(middles)


TILING = Tiling(60, 160, 100, 40)  # columns 0 to 100 and 60 to 160; the middle of what they share is 80
LEFT, RIGHT = TILING.tiles


def boxes_in(boxes, tile, scores=None):
    """Rectangles x, y, width and height on the image, as a tile sees them."""
    boxes = np.array(boxes, np.int64).reshape(-1, 4) - (tile.x, tile.y, 0, 0)
    return (LocalMasks(np.ones(offsets_of(boxes)[-1], np.uint8), boxes, tile.height, tile.width),
            np.array(scores or [0.9] * len(boxes)))


def merged_boxes(left, right, scores=(None, None)):
    merged, _ = merge_all(TILING, [boxes_in(left, LEFT, scores[0]), boxes_in(right, RIGHT, scores[1])])
    return sorted(map(tuple, merged.boxes.tolist()))


@pytest.mark.parametrize(('left', 'right', 'scores', 'expected'), [
    # The centre is on the other's side for each tile, or on its own: it is the same cell.
    ((72, 20, 17, 10), (72, 20, 15, 10), (0.9, 0.9), (72, 20, 17, 10)),
    ((72, 20, 15, 10), (72, 20, 17, 10), (0.9, 0.9), (72, 20, 15, 10)),
    # So different that it might be two: still one, the surer.
    ((70, 20, 25, 10), (62, 20, 23, 10), (0.5, 0.6), (62, 20, 23, 10)),
    ((62, 20, 23, 10), (70, 20, 25, 10), (0.6, 0.5), (62, 20, 23, 10)),
])
def test_tiles_that_disagree_neither_lose_nor_double_a_cell_between_them(left, right, scores, expected):
    assert merged_boxes([left], [right], [[scores[0]], [scores[1]]]) == [expected]


def test_what_the_tile_that_sees_less_adds_is_left_out():
    # Only the left tile finds this one, close to its right border, where the right tile sees nothing.
    assert merged_boxes([(88, 20, 6, 10)], []) == []
    assert merged_boxes([(66, 20, 6, 10)], []) == [(66, 20, 6, 10)]


def test_a_tile_that_was_not_looked_at_owns_no_cell():
    for box in [(88, 20, 6, 10), (88, 20, 12, 10)]:  # the second one is cut by the border
        part, scores = boxes_in([box], LEFT)
        merged, kept = merge(TILING, [part, None], scores)
        assert merged.boxes.tolist() == [list(box)]
        assert kept.tolist() == [0]


def test_cells_within_others_stay_as_the_network_found_them():
    nested = [(65, 10, 30, 30), (75, 20, 6, 6)]
    assert merged_boxes(nested, nested) == nested


def test_a_remnant_at_the_border_that_matches_nothing_yields_to_the_whole_cell():
    # The left tile sees 20 columns of a cell of 70, and takes the upper third of them for a cell.
    assert merged_boxes([(80, 10, 20, 12)], [(80, 10, 70, 40)]) == [(80, 10, 70, 40)]


def test_a_doubtful_mask_takes_no_sure_cell_away():
    # Both tiles see a part of one cell; the right one has a scrap in it, too.
    cell, scrap = [(30, 10, 70, 40)], [(60, 10, 70, 40), (62, 12, 36, 36)]
    assert (30, 10, 100, 40) in merged_boxes(cell, scrap, [[0.95], [0.9, 0.01]])
    # A remnant, sure, and a doubtful mask of all around.
    assert merged_boxes([(50, 10, 49, 30)], [(62, 5, 80, 50)], [[0.9], [0.01]]) == [(50, 10, 49, 30)]


def test_predictions_of_one_tile_are_left_to_the_network():
    # The same mask twice, as of two classes.
    twice = [(70, 20, 12, 10)] * 2
    assert merged_boxes(twice, twice) == twice


def test_four_tiles_at_a_corner_find_one_cell():
    tiling = Tiling(160, 160, 100, 40)
    found = [boxes_in([(70 + number, 71 - number, 18, 19)], tile) for number, tile in enumerate(tiling.tiles)]
    merged, kept = merge_all(tiling, found)
    assert len(merged) == len(kept) == 1


def test_one_tile_is_the_image():
    tiling = Tiling(50, 40, 64, 16)
    masks, scores = discs(3, 20, 50, 40, (2, 8))
    merged, kept = merge(tiling, [masks], scores)
    assert merged.to_rles() == masks.to_rles()
    assert kept.tolist() == list(range(len(masks)))


@pytest.mark.parametrize('part', [LocalMasks.empty(60, 100), None], ids=['none found', 'not looked at'])
def test_no_cell_at_all(part):
    merged, kept = merge(TILING, [part, part], np.zeros(0))
    assert len(merged) == len(kept) == 0
    assert (merged.height, merged.width) == (60, 160)
