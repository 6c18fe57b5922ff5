"""The cells of an image out of those that were found in its tiles, each once and whole.

Two cells of different tiles are the same where they agree, at an IoU of half or more, on the pixels that both tiles
show, and one is not far less sure. Of those, the tile that sees most around the cell has it right, and what only a tile
saw that sees less is left out. A cell that no tile shows whole, larger than the tiles' overlap, is put together from
its parts. Where two tiles saw what cannot both be there, the surer one is left. Tiles that were not looked at have no
say.
"""
import numpy as np

from cellseg_mm.structures.bitmaps import offsets_of
from cellseg_mm.structures.compiled import compiled
from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.structures.overlaps import areas_within, overlaps

_ALIKE = 0.2  # of a score, what another of the same cell has at the least


def merge(tiling, parts, scores, rim=2):
    """Merge what was found in the tiles of an image.

    Args:
        tiling (Tiling): The image's tiles.
        parts (Sequence[LocalMasks | None]): Masks of each tile, on a canvas of its size; None for a tile that was not
            looked at.
        scores (ndarray): float (N,), of all masks, tile by tile.
        rim (int): Pixels from a tile's border within which a mask counts as cut by it.

    Returns:
        tuple[LocalMasks, ndarray]: K masks on a canvas of the image's size; and int64 (K,), ascending, which of the N
            masks each is, or has most of. Empty ones are left out.
    """
    seen = np.array([part is not None for part in parts])
    masks, tiles = _on_one_canvas(tiling, parts, np.flatnonzero(seen))
    found = np.arange(len(masks))
    if not masks.boxes[:, 2].all():
        found = np.flatnonzero(masks.boxes[:, 2])
        masks, tiles = masks[found], tiles[found]
    if len(tiling.tiles) == 1 or not len(masks):
        return masks, found
    kept, parted, following = _choose(tiling, masks, tiles, np.asarray(scores, np.float64)[found], seen, rim)
    masks = _united(masks, following, kept, parted) if parted[kept].any() else masks[kept]
    return masks, found[kept]


def _choose(tiling, masks, tiles, scores, seen, rim):
    """Which masks are kept, int64 (K,); whether each shows a part of what its group shows; and the groups, as rings."""
    centers = masks.boxes[:, :2] + masks.boxes[:, 2:] / 2
    owners, cut = tiling.owners(centers, seen), _cut(tiling, masks.boxes, tiles, rim)

    i, j, shared = overlaps(masks, tiles)
    common = _common(tiling, tiles[i], tiles[j])
    within_i, within_j = areas_within(masks, i, common), areas_within(masks, j, common)
    union = within_i + within_j - shared
    alike = np.minimum(scores[i], scores[j]) >= _ALIKE * np.maximum(scores[i], scores[j])
    same = np.flatnonzero(alike & (2 * shared >= union))
    same = same[np.lexsort((j[same], i[same], -shared[same] / union[same]))]
    following = _link(i[same], j[same], tiles)
    # The best of a group is whole, seen by the tile that owns it, far from that tile's borders, sure.
    best = _best(following, _ranks(cut, owners != tiles, -tiling.depths(centers, tiles), -scores))
    is_best, alone = best == np.arange(len(masks)), following == np.arange(len(masks))

    # Half of one is the other's, or half of what is seen of one by the tile that cuts the other.
    areas = masks.areas
    least = np.minimum(np.where(cut[j], within_i, areas[i]), np.where(cut[i], within_j, areas[j]))
    rivals = is_best[i] & is_best[j] & (2 * shared > least)
    i, j = i[rivals], j[rivals]
    # Cells within others are rivals too, but then a tile has seen both.
    rivals = ~(_sees(following, tiles, i, tiles[j]) | _sees(following, tiles, j, tiles[i]))
    i, j = i[rivals], j[rivals]
    # What the tile that sees most there did not see is no cell as a rule, however many others did, since some have the
    # same border. But by each other's account, a cell between tiles may lie where another of them sees more.
    stray = ~_any(following, _sees(following, tiles, np.arange(len(masks)), owners))
    lost = stray.copy()
    lost[i[~stray[j]]], lost[j[~stray[i]]] = False, False  # the tile that sees most has a say in these
    chosen = is_best & ~stray
    first, second = np.concatenate([i, j]), np.concatenate([j, i])
    between = lost[first] & lost[second] & _sees(following, tiles, second, owners[first])
    chosen[_without_ends(first[between], second[between])] = True
    # What is left of a cell at a border looks less like one than the whole, which is worth half of the score.
    ranks = _ranks(stray, -scores * np.where(cut & alone, 0.5, 1))
    better, worse = np.where(ranks[i] < ranks[j], (i, j), (j, i))
    _suppress(better, worse, np.argsort(ranks[better]), chosen)

    return np.flatnonzero(chosen), cut & ~alone, following


def _on_one_canvas(tiling, parts, seen):
    """The masks of all tiles that were seen on the image's canvas, and the tile of each."""
    canvas = tiling.height, tiling.width
    moved = [LocalMasks.empty(*canvas)]
    moved += [parts[tile].expand(*canvas, tiling.tiles[tile].y, tiling.tiles[tile].x) for tile in seen]
    return LocalMasks.cat(moved), np.repeat(seen, [len(parts[tile]) for tile in seen])


def _cut(tiling, boxes, tiles, rim):
    """Whether each box reaches a border of its tile that is none of the image."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    corners = np.array(tiling.tiles, np.int64)
    first, last = corners[tiles, :2], corners[tiles, :2] + corners[tiles, 2:]
    return (((low < first + rim) & (first > 0)) | (
        (high > last - rim) & (last < (tiling.width, tiling.height)))).any(1)


def _common(tiling, first, second):
    """The window that both of two tiles show, for K pairs: int64 (K, 4)."""
    windows = np.array(tiling.tiles, np.int64)
    first, second = windows[first], windows[second]
    low = np.maximum(first[:, :2], second[:, :2])
    high = np.minimum(first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:])
    return np.concatenate([low, np.maximum(high - low, 0)], axis=1)


def _ranks(*keys):
    """The place of each in ascending order of the keys, the first of which counts most: int64 (N,)."""
    order = np.lexsort(keys[::-1])
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


def _without_ends(first, second):
    """What leads on for ever, of steps from first to second: int64 (K,)."""
    while not (goes_on := np.isin(second, first)).all():
        first, second = first[goes_on], second[goes_on]
    return first


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
def _best(following, ranks):
    """The member of the lowest rank in the group of each: int64 (N,)."""
    best = np.arange(len(ranks))
    for i in range(len(ranks)):
        member = following[i]
        while member != i:
            if ranks[member] < ranks[best[i]]:
                best[i] = member
            member = following[member]
    return best


@compiled
def _any(following, flags):
    """Whether one of the group of each is flagged: bool (N,)."""
    found = np.zeros(len(flags), np.bool_)
    for i in range(len(flags)):
        if flags[i]:
            member = i
            while not found[member]:
                found[member] = True
                member = following[member]
    return found


@compiled
def _sees(following, tiles, members, seeing):
    """Whether the group of each of some members has one of a tile: bool (K,)."""
    sees = np.zeros(len(members), np.bool_)
    for k in range(len(members)):
        member = members[k]
        while True:
            sees[k] |= tiles[member] == seeing[k]
            member = following[member]
            if member == members[k]:
                break
    return sees


@compiled
def _suppress(better, worse, order, chosen):
    # From the best on, so that each better one is known to be chosen or not.
    for k in order:
        if chosen[better[k]]:
            chosen[worse[k]] = False


def _united(masks, following, kept, parted):
    """The masks that are kept, those of them that are parted with the pixels of all of their group."""
    boxes = masks.boxes[kept]
    members, places = [], []
    for place in np.flatnonzero(parted[kept]).tolist():
        group = [int(kept[place])]
        while (member := int(following[group[-1]])) != group[0]:
            group.append(member)
        corners = masks.boxes[group]
        low, high = corners[:, :2].min(0), (corners[:, :2] + corners[:, 2:]).max(0)
        boxes[place] = *low, *(high - low)
        members += group
        places += [place] * len(group)
    offsets = offsets_of(boxes)
    pixels = np.zeros(offsets[-1], np.uint8)
    whole = np.flatnonzero(~parted[kept])
    members, places = np.concatenate([kept[whole], np.int64(members)]), np.concatenate([whole, np.int64(places)])
    _draw(masks.pixels, masks.boxes, masks.offsets, members, places, pixels, boxes, offsets)
    return LocalMasks(pixels, boxes, masks.height, masks.width)


@compiled
def _draw(pixels, boxes, offsets, members, places, out, out_boxes, out_offsets):
    for k in range(len(members)):
        x, y, w, h = boxes[members[k]]
        u, v, width, _ = out_boxes[places[k]]
        source = offsets[members[k]]
        for row in range(y, y + h):
            target = out_offsets[places[k]] + (row - v) * width + x - u
            for column in range(w):
                out[target + column] |= pixels[source + column]
            source += w
