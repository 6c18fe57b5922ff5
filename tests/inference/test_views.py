"""Views of an image, and back."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellseg_mm.errors import UserError
from cellseg_mm.inference.views import VIEWS, View, views_of
from cellseg_mm.structures.cells import Cells
from cellseg_mm.structures.local_masks import LocalMasks

all_views = st.builds(View, st.booleans(), st.integers(0, 3))


@given(all_views, st.integers(0, 10**6))
def test_what_a_view_shows_is_undone_exactly(view, seed):
    rng = np.random.default_rng(seed)
    masks = rng.random((rng.integers(0, 4), 9, 14)) < 0.3
    seen = [view.of(mask.astype(np.uint8)) for mask in masks]
    height, width = view.of(np.zeros((9, 14))).shape
    cells = Cells(LocalMasks.from_bitmaps(np.reshape(seen, (len(masks), height, width))), np.arange(len(masks)),
                  rng.random(len(masks)).astype(np.float32))
    back = view.undo(cells)
    np.testing.assert_array_equal(back.masks.to_ndarray(), masks)
    np.testing.assert_array_equal(back.scores, cells.scores)


@given(all_views)
def test_a_picture_is_shown_as_its_pixels_are(view):
    picture = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    shown = view.of(picture)
    assert sorted(shown.reshape(-1, 3).tolist()) == sorted(picture.reshape(-1, 3).tolist())
    assert shown.flags.c_contiguous


@pytest.mark.parametrize(('names', 'count'), [
    ((), 1), (('flips', ), 4), (('turns', ), 8), (('scales', ), 3), (('flips', 'turns'), 8), (('turns', 'scales'), 24),
    (('turns', 'turns'), 8)])
def test_views_of_several_sets_are_all_of_their_combinations_once(names, count):
    views = views_of(names)
    assert len(set(views)) == len(views) == count
    assert View() in views
    # No two of them show the same.
    picture = np.arange(12).reshape(3, 4)
    assert len({(view.of(picture).tobytes(), view.of(picture).shape, view.scale) for view in views}) == count


@given(*[st.lists(st.sampled_from(sorted(VIEWS)), max_size=1)] * 2)
def test_combined_views_show_one_after_the_other(first, second):
    picture = np.arange(12).reshape(3, 4)

    def shown(view, image):
        return view.of(image).tobytes(), round(view.scale, 9)

    assert {shown(view, picture) for view in views_of(first + second)} == {
        shown(b._replace(scale=a.scale * b.scale), a.of(picture))
        for a in views_of(first) for b in views_of(second)}


def test_an_unknown_name_is_told_with_those_that_there_are():
    with pytest.raises(UserError, match='no views of the name rotations; there are flips, turns, scales'):
        views_of(['rotations'])
