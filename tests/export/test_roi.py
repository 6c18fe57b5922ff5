"""ROIs for ImageJ, read back by roifile and filled again."""
import re
import time
import zipfile

import numpy as np
import pytest
from export_scenes import CLASSES, COLORS, scene, slide
from hypothesis import given, settings
from hypothesis import strategies as st
from roifile import ROI_TYPE, roiread

from cellseg_mm.export.roi import write_rois
from cellseg_mm.structures.cells import Cells
from cellseg_mm.structures.local_masks import LocalMasks


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    return tmp_path_factory.mktemp('rois') / 'image.zip'


def filled(loops, height, width):
    """The pixels whose middle an odd number of loops runs around: what ImageJ takes for a ROI's."""
    canvas = np.zeros((height, width), bool)
    for loop in loops:
        assert (loop == np.rint(loop)).all()
        for (x, y), (u, v) in zip(loop.astype(int), np.roll(loop, -1, 0).astype(int), strict=True):
            assert x == u or y == v
            if x == u:
                canvas[min(y, v):max(y, v), x:] ^= True
    return canvas


def one_cell(mask, left=0, top=0, side=None):
    pixels = mask.astype(np.uint8)
    box = np.array([[left, top, mask.shape[1], mask.shape[0]]])
    canvas = side or max(mask.shape)
    return Cells(LocalMasks(pixels.ravel(), box, canvas, canvas), np.zeros(1, np.int64), np.ones(1, np.float32))


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_rois_filled_again_are_the_cells(path, seed):
    cells = scene(seed)
    write_rois(path, cells, CLASSES, COLORS)
    rois = roiread(path)
    assert len(rois) == len(cells)
    for roi, mask, box in zip(rois, cells.masks, cells.masks.boxes, strict=True):
        np.testing.assert_array_equal(filled(roi.coordinates(multi=True), *mask.shape), mask)
        assert [roi.left, roi.top, roi.right - roi.left, roi.bottom - roi.top] == box.tolist()


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_names_and_colors_tell_number_and_class(path, seed):
    cells = scene(seed)
    write_rois(path, cells, CLASSES, COLORS)
    for number, (roi, label) in enumerate(zip(roiread(path), cells.labels, strict=True), 1):
        assert roi.name == f'{number:06} {CLASSES[label]}'
        # Alpha, then red, green and blue.
        assert tuple(roi.stroke_color) == (255, *COLORS[label])
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
    assert len(set(names)) == len(cells)
    # No file system minds them.
    assert all(re.fullmatch(r'\d{6} [\w ]+\.roi', name) for name in names)


def test_a_cell_in_one_piece_is_a_traced_polygon(path):
    write_rois(path, one_cell(np.array([[1, 1], [1, 0]])), CLASSES, COLORS)
    roi, = roiread(path)
    assert roi.roitype == ROI_TYPE.TRACED
    assert roi.coordinates().tolist() == [[0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2]]


@pytest.mark.parametrize(('mask', 'loops'), [
    (np.pad(np.zeros((2, 3)), 2, constant_values=1), 2),
    (np.eye(3), 3),
    (np.array([[1, 0, 1]]), 2),
], ids=['with a hole', 'corner to corner', 'in pieces'])
def test_holes_and_pieces_make_a_composite(path, mask, loops):
    write_rois(path, one_cell(mask), CLASSES, COLORS)
    roi, = roiread(path)
    assert roi.composite
    found = roi.coordinates(multi=True)
    assert len(found) == loops
    np.testing.assert_array_equal(filled(found, *mask.shape), mask)


@pytest.mark.parametrize('left', [30_000, 32_766, 40_000, 60_530, 60_534, 66_000, 200_000])
def test_cells_far_to_the_right_stay_where_they_are(path, left):
    mask = np.array([[1, 1, 1], [0, 1, 0]])
    write_rois(path, one_cell(mask, left, left // 2, 250_000), CLASSES, COLORS)
    loop, = roiread(path)[0].coordinates(multi=True)
    np.testing.assert_array_equal(filled([loop - [left, left // 2]], 2, 3), mask)


def test_an_image_without_cells_has_no_roi(path):
    write_rois(path, Cells.none(30, 40), CLASSES, COLORS)
    assert roiread(path) == []


def test_the_same_cells_give_the_same_bytes(path):
    write_rois(path, scene(1), CLASSES, COLORS)
    before = path.read_bytes()
    write_rois(path, scene(1), CLASSES, COLORS)
    assert path.read_bytes() == before


def test_an_error_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / 'image.zip'
    path.write_text('old')
    with pytest.raises(IndexError):
        write_rois(path, scene(1), CLASSES[:1], COLORS[:1])
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [('image.zip', 'old')]


def test_ten_thousand_cells_take_two_seconds_at_most(path):
    cells = slide(2500, 10_000)
    write_rois(path, cells[np.arange(3)], CLASSES, COLORS)  # compiled
    start = time.process_time()
    write_rois(path, cells, CLASSES, COLORS)
    assert time.process_time() - start < 2
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == 10_000
