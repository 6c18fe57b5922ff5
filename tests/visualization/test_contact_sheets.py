import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellseg_mm.datasets.survey import ImageEntry, Survey
from cellseg_mm.structures.rle import encode
from cellseg_mm.visualization.contact_sheets import TILE, choose_cells, draw_cell, window_of


def survey_of(boxes, size=(400, 500), groups=1):
    """A data set of two classes, the second without a cell; each cell is a full box in an image of its own group."""
    boxes = np.array(boxes, np.int64).reshape(-1, 4)
    image = np.arange(len(boxes)) * groups // len(boxes)
    entries = [ImageEntry(None, f'image{i}', size, None, f'group{i}', ('train', ), True) for i in range(groups)]
    rles = [encode(np.ones(w * h, np.uint8), np.int32([[x, y, w, h]]), *size)[0] for x, y, w, h in boxes]
    return Survey(['round', 'none'], '', entries, image, np.zeros(len(boxes), int), boxes, boxes[:, 2] * boxes[:, 3],
                  rles, [], {})


@given(st.data(), st.sampled_from([1, 1.5, 2, 3, 6]))
def test_a_window_holds_its_cell_and_lies_in_the_image(data, scale):
    height, width = size = data.draw(st.tuples(st.integers(1, 300), st.integers(1, 300)))
    x, y = data.draw(st.tuples(st.integers(0, width - 1), st.integers(0, height - 1)))
    w, h = data.draw(st.tuples(st.integers(1, width - x), st.integers(1, height - y)))
    left, top, across, down = window_of(survey_of([[x, y, w, h]], size), 0, scale)
    assert 0 <= left <= x < x + w <= left + across <= width
    assert 0 <= top <= y < y + h <= top + down <= height


@pytest.mark.parametrize(('box', 'scale', 'shape'), [
    ((200, 200, 10, 10), 4, (96, 96)), ((0, 390, 10, 10), 4, (96, 96)), ((200, 200, 1, 1), 6, (96, 96)),
    ((200, 200, 60, 30), 4, (96, 96)), ((200, 200, 40, 40), 1.5, (96, 96)),
    ((0, 0, 500, 400), 1, (77, 96)), ((0, 0, 500, 2), 1, (77, 96))])
def test_a_cell_is_outlined_in_a_picture_of_the_size_of_a_tile(box, scale, shape):
    survey = survey_of([box])
    _, _, width, height = window_of(survey, 0, scale)
    drawn = draw_cell(survey, 0, scale, np.full((height, width, 3), 200, np.uint8))
    assert drawn.shape == (*shape, 3)
    assert max(drawn.shape) <= TILE
    changed = (drawn != 200).any(2)
    assert changed.any()
    if box[2:] == (10, 10):
        # At scale 4, it covers 40 pixels of the picture's each way.
        assert changed.sum() == pytest.approx(1600, rel=0.1)


def test_a_small_image_makes_a_small_picture():
    survey = survey_of([[1, 1, 2, 2]], size=(5, 8))
    assert draw_cell(survey, 0, 6, np.zeros((5, 8, 3), np.uint8)).shape == (30, 48, 3)
    assert draw_cell(survey, 0, 1.5, np.zeros((5, 8, 3), np.uint8)).shape == (8, 12, 3)


def test_the_smallest_the_largest_and_all_groups_are_shown():
    rng = np.random.default_rng(0)
    sides = rng.permutation(np.arange(1, 301)) % 90 + 1
    survey = survey_of([(0, 0, side, side) for side in sides], groups=30)
    rows, none = choose_cells(survey)
    smallest, sampled, largest = rows
    assert none == []
    assert survey.area[smallest.cells].max() <= np.sort(survey.area)[11]
    assert survey.area[largest.cells].min() >= np.sort(survey.area)[-12]
    assert len(sampled.cells) == len(set(sampled.cells)) == 48
    assert (np.diff(survey.area[sampled.cells]) >= 0).all()
    assert {int(i) for i in survey.image[sampled.cells]} == set(range(30))
    assert smallest.scale > sampled.scale >= largest.scale


def test_few_cells_are_shown_all():
    (row, ), _ = choose_cells(survey_of([(0, 0, 3, 3), (5, 5, 2, 2)]))
    assert row.cells == [1, 0]
