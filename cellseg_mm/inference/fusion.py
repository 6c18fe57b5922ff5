"""One set of cells out of several views of an image: flipped, turned, scaled, or seen by other models."""
import numpy as np

from cellseg_mm.structures.bitmaps import offsets_of
from cellseg_mm.structures.cells import Cells
from cellseg_mm.structures.compiled import compiled
from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.structures.overlaps import overlaps


def fuse(views, iou=0.55):
    """Fuse what several views found, as weighted boxes fusion does (Solovyev et al. 2021), with masks.

    From the highest score down, a cell joins the group of its class whose box, the average of its members' by score, it
    fits best, if at an IoU above `iou`; else it begins one. A group has one cell of a view at most, and only cells that
    share pixels with another of it. Its mask is what half of its members cover, counted by their scores; its score
    their sum divided by the number of views, so that views which agree give the same cells as one.

    Views that hold a cell for different classes give one of each: the class of most votes, counted by score, has the
    highest score.

    Args:
        views (Sequence[Cells]): What each of V views found, on canvases of one size.
        iou (float): In (0, 1].

    Returns:
        Cells: By descending score of the surest member.
    """
    if len(views) == 1:
        return views[0]
    cells = Cells.cat(views)
    if not len(cells):
        return cells
    masks, scores = cells.masks, cells.scores.astype(np.float64)
    sources = np.repeat(np.arange(len(views)), [len(view) for view in views])
    i, j, _ = overlaps(masks, sources)
    same = cells.labels[i] == cells.labels[j]
    i, j = i[same], j[same]
    one, other = np.append(i, j), np.append(j, i)
    by_one = np.argsort(one, kind='stable')
    starts = np.searchsorted(one[by_one], np.arange(len(cells) + 1))
    order = np.argsort(-scores, kind='stable')
    group, count = _group(masks.boxes.astype(np.float64), scores, sources, order, starts, other[by_one], iou)

    weights, labels = np.bincount(group, scores, count), np.empty(count, np.int64)
    labels[group] = cells.labels
    low, high = np.full((count, 2), np.iinfo(np.int32).max), np.zeros((count, 2), np.int64)
    np.minimum.at(low, group, masks.boxes[:, :2])
    np.maximum.at(high, group, masks.boxes[:, :2] + masks.boxes[:, 2:])
    frames = np.concatenate([low, high - low], axis=1)
    pixels = _vote(masks.pixels, masks.boxes, masks.offsets, scores, group, weights, frames, offsets_of(frames))
    return Cells(LocalMasks(pixels, frames, masks.height, masks.width), labels,
                 (weights / len(views)).astype(np.float32))


@compiled
def _group(boxes, scores, sources, order, starts, neighbours, iou):
    """The group of each cell, int64 (N,), numbered in the order in which they began; and how many there are."""
    group, count = np.full(len(boxes), -1), 0
    # Sums of x1, y1, x2 and y2 by score, and of scores; and each member's predecessor in its group.
    sums, last, previous = np.zeros((len(boxes), 5)), np.full(len(boxes), -1), np.full(len(boxes), -1)
    for i in order:
        x1, y1 = boxes[i, 0], boxes[i, 1]
        x2, y2 = x1 + boxes[i, 2], y1 + boxes[i, 3]
        best, best_iou = -1, iou
        for k in range(starts[i], starts[i + 1]):
            g = group[neighbours[k]]
            if g < 0:
                continue
            weight = sums[g, 4]
            u1, v1, u2, v2 = sums[g, 0] / weight, sums[g, 1] / weight, sums[g, 2] / weight, sums[g, 3] / weight
            shared = max(min(x2, u2) - max(x1, u1), 0.0) * max(min(y2, v2) - max(y1, v1), 0.0)
            ratio = shared / ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - shared)
            # Of groups that fit alike, that which began first, whatever the order of the views.
            if ratio < best_iou or (ratio == best_iou and (best < 0 or g >= best)):
                continue
            member = last[g]
            while member >= 0 and sources[member] != sources[i]:
                member = previous[member]
            if member < 0:
                best, best_iou = g, ratio
        if best < 0:
            best, count = count, count + 1
        group[i], previous[i], last[best] = best, last[best], i
        weight = max(scores[i], 1e-9)
        sums[best, 0] += x1 * weight
        sums[best, 1] += y1 * weight
        sums[best, 2] += x2 * weight
        sums[best, 3] += y2 * weight
        sums[best, 4] += weight
    return group, count


@compiled
def _vote(pixels, boxes, offsets, scores, group, weights, frames, frame_offsets):
    """What members of at least half of their group's weight cover: uint8, the bitmaps of the frames."""
    sums = np.zeros(frame_offsets[-1], np.float64)
    for i in range(len(boxes)):
        x, y, w, h = boxes[i]
        g = group[i]
        source = offsets[i]
        for row in range(y, y + h):
            target = frame_offsets[g] + (row - frames[g, 1]) * frames[g, 2] + x - frames[g, 0]
            for column in range(w):
                if pixels[source + column]:
                    sums[target + column] += scores[i]
            source += w
    out = np.empty(len(sums), np.uint8)
    for g in range(len(frames)):
        # Sums of the same numbers in another order may differ in their last bits.
        least = 0.5 * weights[g] * (1 - 1e-12)
        for k in range(frame_offsets[g], frame_offsets[g + 1]):
            out[k] = sums[k] > 0 and sums[k] >= least
    return out
