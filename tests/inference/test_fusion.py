"""What several views of an image found, as one."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellseg_mm.inference.fusion import fuse
from cellseg_mm.structures.cells import Cells
from cellseg_mm.structures.local_masks import LocalMasks


def cells_of(masks, labels=None, scores=None):
    masks = np.asarray(masks, bool)
    return Cells(LocalMasks.from_bitmaps(masks), np.int64(labels or [0] * len(masks)),
                 np.float32(scores or [0.8] * len(masks)))


def square(y, x, side=10, canvas=40):
    mask = np.zeros((canvas, canvas), bool)
    mask[y:y + side, x:x + side] = True
    return mask


def crowd(rng, count):
    """Squares that overlap much, of two classes and of different scores, with a hole here and there."""
    masks = np.reshape([square(*rng.integers(0, 7, 2), 8, 16) for _ in range(count)], (count, 16, 16))
    masks &= rng.random(masks.shape) < 0.95
    return cells_of(masks, rng.integers(0, 2, count).tolist(), rng.uniform(0.05, 1, count).tolist())


def by_score(cells):
    """Cells as plain values, the surest first."""
    order = np.argsort(-cells.scores)
    return cells.masks.to_ndarray()[order], cells.labels[order], cells.scores[order]


def slowly_fused(views, iou=0.55):
    """`fuse` by lists of members and masks of the canvas's size."""
    cells = [(score, view, label, mask, np.array([x, y, x + w, y + h]))
             for view, found in enumerate(views) for score, label, mask, (x, y, w, h) in
             zip(found.scores.tolist(), found.labels.tolist(), found.masks.to_ndarray(), found.masks.boxes.tolist(),
                 strict=True)]
    groups = []
    for cell in sorted(cells, key=lambda cell: -cell[0]):
        _, view, label, mask, box = cell
        best, best_iou = [], iou
        for group in groups:
            other = sum(score * corners for score, *_, corners in group) / sum(score for score, *_ in group)
            sides = np.maximum(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0)
            ratio = sides.prod() / ((box[2:] - box[:2]).prod() + (other[2:] - other[:2]).prod() - sides.prod())
            views_of_it, touches = {member[1] for member in group}, any((member[3] & mask).any() for member in group)
            if label == group[0][2] and view not in views_of_it and touches and ratio > best_iou:
                best, best_iou = group, ratio
        if not best:
            groups.append(best)
        best.append(cell)
    weights = [sum(score for score, *_ in group) for group in groups]
    return cells_of([sum(score * mask for score, _, _, mask, _ in group) >= weight / 2 * (1 - 1e-12)
                     for group, weight in zip(groups, weights, strict=True)],
                    [group[0][2] for group in groups], [weight / len(views) for weight in weights])


@given(st.integers(0, 10**6), st.integers(2, 4))
def test_groups_masks_and_scores_are_those_of_the_slow_way(seed, count):
    rng = np.random.default_rng(seed)
    views = [crowd(rng, rng.integers(1, 6)) for _ in range(count)]
    for found, expected in zip(by_score(fuse(views)), by_score(slowly_fused(views)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@given(st.integers(0, 10**6), st.integers(1, 5))
def test_views_that_agree_give_the_same_cells_as_one(seed, count):
    # However much these overlap, and whichever classes hold one place.
    cells = crowd(np.random.default_rng(seed), 8)
    for found, expected in zip(by_score(fuse([cells] * count)), by_score(cells), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@given(st.integers(0, 10**6))
def test_the_order_of_views_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    views = [crowd(rng, 4) for _ in range(3)]
    for found, expected in zip(by_score(fuse(views[::-1])), by_score(fuse(views)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_mask_is_what_most_cover_by_score():
    fused = fuse([cells_of([square(5, 5)], scores=[0.6]), cells_of([square(5, 6)], scores=[0.8]),
                  cells_of([square(5, 6)], scores=[0.7])])
    np.testing.assert_array_equal(fused.masks.to_ndarray()[0], square(5, 6))
    assert fused.scores.tolist() == pytest.approx([0.7])


def test_each_class_of_a_place_is_one_cell_by_the_votes_for_it():
    # A detector may find a cell once for each class that it half believes.
    twice = [square(5, 5)] * 2
    fused = fuse([cells_of(twice, [0, 1], [0.6, 0.35]), cells_of(twice, [1, 0], [0.5, 0.45])])
    assert fused.labels.tolist() == [0, 1]
    assert fused.scores.tolist() == pytest.approx([0.525, 0.425])


def test_what_few_views_find_counts_less():
    nothing = Cells.none(40, 40)
    assert fuse([cells_of([square(5, 5)]), nothing, nothing, nothing]).scores.tolist() == pytest.approx([0.2])


def test_two_cells_of_a_view_stay_two():
    # The second view sees one cell over both.
    views = [cells_of([square(5, 5), square(5, 8)], scores=[0.9, 0.8]), cells_of([square(5, 6)], scores=[0.7])]
    assert len(fuse(views)) == 2


def test_nothing_found_anywhere():
    assert len(fuse([Cells.none(9, 9), Cells.none(9, 9)])) == 0


def test_masks_of_cells_without_a_score_are_not_their_whole_frames():
    views = [cells_of([square(5, 5)], scores=[0.0]), cells_of([square(6, 6)], scores=[0.0])]
    assert fuse(views).masks.areas.max() <= 119
