"""The cells of an image out of those that were found in its tiles, each once and whole.

Two cells of different tiles are the same where they agree, at an IoU of half or more, on the pixels that both tiles
show. The tile that sees most around a cell decides: what another saw there is left out. A cell that no tile shows
whole, larger than the tiles' overlap, is put together from its parts.
"""
import numpy as np

from cellseg_mm.structures.bitmaps import offsets_of
from cellseg_mm.structures.cells import Cells
from cellseg_mm.structures.compiled import compiled
from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.structures.overlaps import areas_within, overlaps

# A network may stop a cell that is cut a pixel before the border.
_RIM = 2


def merge(tiling, parts, iou=0.5):
    """Merge what was found in the tiles of an image.

    Args:
        tiling (Tiling): The image's tiles.
        parts (Sequence[Cells]): Of each tile, on a canvas of the tile's size.
        iou (float): From which on cells of two tiles are the same, above 0.

    Returns:
        Cells: On a canvas of the image's size; in the order of the tiles, then of their cells.
    """
    cells, tiles = _on_one_canvas(tiling, parts)
    if len(tiling.tiles) == 1 or not len(cells):
        return cells
    masks = cells.masks
    centers = masks.boxes[:, :2] + masks.boxes[:, 2:] / 2
    owned = tiling.owners(centers) == tiles
    depths = tiling.depths(centers, tiles)
    cut = _cut(tiling, masks.boxes, tiles)

    i, j, shared = overlaps(masks)
    apart = tiles[i] != tiles[j]
    i, j, shared = i[apart], j[apart], shared[apart]
    windows = np.array(tiling.tiles, np.int64).reshape(-1, 4)
    common = _common(windows[tiles[i]], windows[tiles[j]])
    within_i, within_j = areas_within(masks, i, common), areas_within(masks, j, common)
    ious = shared / (within_i + within_j - shared)

    same = np.flatnonzero(ious >= iou)
    same = same[np.lexsort((j[same], i[same], -ious[same]))]
    following = _link(i[same], j[same], tiles)
    # Of each group, in this order: whole, seen by the tile that owns it, far from that tile's borders, sure.
    rank = np.empty(len(cells), np.int64)
    rank[np.lexsort((np.arange(len(cells)), -cells.scores, -depths, ~owned, cut))] = np.arange(len(cells))
    chosen, parted = _choose(following, rank, owned, cut)

    # What is left of a cell at a tile's border may look like no part of the cell that a neighbour sees.
    for one, other, area in ((i, j, within_i), (j, i, within_j)):
        doubtful = chosen[one] & chosen[other] & cut[one] & ~cut[other] & (2 * shared > area)
        chosen[one[doubtful]] = False
    if (chosen & parted).any():
        masks = _unite(masks, following, chosen & parted)
    return Cells(masks, cells.labels, cells.scores)[chosen]


def _on_one_canvas(tiling, parts):
    tiles = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    boxes = np.concatenate([part.masks.boxes for part in parts]).astype(np.int64)
    corners = np.array([(tile.x, tile.y) for tile in tiling.tiles], np.int64)
    boxes[:, :2] += corners[tiles]
    boxes[boxes[:, 2] == 0] = 0
    pixels = np.concatenate([part.masks.pixels for part in parts])
    cells = Cells(LocalMasks(pixels, boxes, tiling.height, tiling.width),
                  np.concatenate([part.labels for part in parts]), np.concatenate([part.scores for part in parts]))
    found = cells.masks.boxes[:, 2] > 0
    return cells[found], tiles[found]


def _cut(tiling, boxes, tiles):
    """Whether each box reaches a border of its tile that is none of the image."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    corners = np.array(tiling.tiles, np.int64)
    first, last = corners[tiles, :2], corners[tiles, :2] + corners[tiles, 2:]
    return (((low < first + _RIM) & (first > 0)) | (
        (high > last - _RIM) & (last < (tiling.width, tiling.height)))).any(1)


def _common(first, second):
    """What windows have in common: int64 (K, 4)."""
    low = np.maximum(first[:, :2], second[:, :2])
    high = np.minimum(first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:])
    return np.concatenate([low, np.maximum(high - low, 0)], axis=1)


@compiled
def _link(first, second, tiles):
    """Groups of the same cell, one member a tile at most, as rings: the member that follows each, int64 (N,)."""
    following = np.arange(len(tiles))
    for k in range(len(first)):
        i, j = first[k], second[k]
        joins, member = True, i
        while joins:
            other = j
            while True:
                if tiles[member] == tiles[other]:
                    joins = False
                    break
                other = following[other]
                if other == j:
                    break
            member = following[member]
            if member == i:
                break
        if joins:
            following[i], following[j] = following[j], following[i]
    return following


@compiled
def _choose(following, rank, owned, cut):
    """Of each group the member of the lowest rank, if it is to be kept; and whether it needs those parts of others."""
    chosen, parted = np.zeros(len(rank), np.bool_), np.zeros(len(rank), np.bool_)
    for i in range(len(rank)):
        best, member = i, following[i]
        while member != i:
            if rank[member] < rank[best]:
                best = member
            member = following[member]
        if best != i:
            continue
        alone = following[i] == i
        chosen[i] = owned[i] or not alone
        parted[i] = cut[i] and not alone
    return chosen, parted


def _unite(masks, following, parted):
    """The masks, those that are parted with the pixels of all of their group."""
    boxes = masks.boxes.copy()
    members, owners = [], []
    for i in np.flatnonzero(parted).tolist():
        group = [i]
        while (member := int(following[group[-1]])) != i:
            group.append(member)
        corners = masks.boxes[group]
        low, high = corners[:, :2].min(0), (corners[:, :2] + corners[:, 2:]).max(0)
        boxes[i] = *low, *(high - low)
        members += group
        owners += [i] * len(group)
    offsets = offsets_of(boxes)
    pixels = np.zeros(offsets[-1], np.uint8)
    whole = np.flatnonzero(~parted)
    members, owners = np.concatenate([whole, np.int64(members)]), np.concatenate([whole, np.int64(owners)])
    _draw(masks.pixels, masks.boxes, masks.offsets, members, owners, pixels, boxes, offsets)
    return LocalMasks(pixels, boxes, masks.height, masks.width)


@compiled
def _draw(pixels, boxes, offsets, members, owners, out, out_boxes, out_offsets):
    for k in range(len(members)):
        x, y, w, h = boxes[members[k]]
        u, v, width, _ = out_boxes[owners[k]]
        source = offsets[members[k]]
        for row in range(y, y + h):
            target = out_offsets[owners[k]] + (row - v) * width + x - u
            for column in range(w):
                out[target + column] |= pixels[source + column]
            source += w
