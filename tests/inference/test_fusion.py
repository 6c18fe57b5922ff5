"""Views of an image, and what several of them found as one."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg_mm.errors import UserError
from cellseg_mm.inference.fusion import fuse
from cellseg_mm.inference.views import VIEWS, View, views_of
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


@given(st.integers(0, 10**6), st.booleans(), st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_what_a_view_shows_comes_back_to_its_place(seed, flip, turns):
    masks = np.random.default_rng(seed).random((5, 17, 23)) < 0.3
    view = View(flip, turns)
    seen = cells_of([view.of(mask) for mask in masks])
    np.testing.assert_array_equal(view.undo(seen).masks.to_ndarray(), masks)


def test_the_eight_views_of_turns_are_all_there_are():
    image = np.arange(6).reshape(2, 3)
    assert len({view.of(image).tobytes() + bytes(view.of(image).shape) for view in views_of(['turns'])}) == 8
    assert set(views_of(['flips', 'turns'])) == set(VIEWS['turns'])


def test_combined_views_show_one_after_the_other():
    image = np.arange(12).reshape(3, 4)
    shown = {view.of(image).tobytes() for view in views_of(['flips', 'turns'])}
    assert shown == {b.of(a.of(image)).tobytes() for a in VIEWS['flips'] for b in VIEWS['turns']}
    assert len(views_of(['turns', 'scales'])) == 24


def test_an_unknown_set_of_views_is_named():
    with pytest.raises(UserError, match='there are no views of the name spins; there are flips, turns, scales'):
        views_of(['spins'])


def test_one_view_is_left_as_it_is():
    cells = cells_of([square(3, 3), square(4, 4)])
    assert fuse([cells]) is cells


def test_views_that_agree_give_the_same_cells():
    cells = cells_of([square(2, 2), square(20, 15)], [1, 2], [0.5, 0.75])
    fused = fuse([cells, cells, cells])
    np.testing.assert_array_equal(fused.masks.to_ndarray(), cells.masks.to_ndarray()[::-1])
    assert fused.labels.tolist() == [2, 1]
    assert fused.scores.tolist() == pytest.approx([0.75, 0.5])


def test_masks_are_what_most_cover_and_classes_what_most_say():
    views = [cells_of([square(5, 5)], [0], [0.6]), cells_of([square(5, 6)], [3], [0.8]),
             cells_of([square(5, 6)], [0], [0.7])]
    fused = fuse(views)
    np.testing.assert_array_equal(fused.masks.to_ndarray()[0], square(5, 6))
    assert fused.labels.tolist() == [0]
    assert fused.scores.tolist() == pytest.approx([0.7])


def test_what_few_views_find_counts_less():
    nothing = Cells.none(40, 40)
    assert fuse([cells_of([square(5, 5)]), nothing, nothing, nothing]).scores.tolist() == pytest.approx([0.2])


def test_two_cells_of_a_view_stay_two():
    # The second view sees one cell over both.
    views = [cells_of([square(5, 5), square(5, 8)], scores=[0.9, 0.8]), cells_of([square(5, 6)], scores=[0.7])]
    assert len(fuse(views)) == 2


def test_nothing_found_anywhere():
    assert len(fuse([Cells.none(9, 9), Cells.none(9, 9)])) == 0
