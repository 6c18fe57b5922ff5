import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from rich.console import Console
from scipy import ndimage

from cellseg_mm.datasets.audit import disconnected_cells, inspect, sentence, summarise, touching_cells, warn
from cellseg_mm.datasets.layouts import Sample

label_maps = arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=9),
                    elements=st.sampled_from([0, 0, 1, 2, 3]))
EIGHT = np.ones((3, 3), bool)


def numbered(labels):
    ids = np.unique(labels[labels != 0])
    return np.where(labels != 0, np.searchsorted(ids, labels) + 1, 0), len(ids)


@given(label_maps)
def test_touching_cells_are_those_whose_dilation_meets_another(labels):
    labels, count = numbered(labels)
    slow = [bool(np.any((labels != i) & (labels > 0) & ndimage.binary_dilation(labels == i, EIGHT)))
            for i in range(1, count + 1)]
    assert touching_cells(labels, count).tolist() == slow


@given(label_maps)
def test_disconnected_cells_are_those_of_several_components(labels):
    labels, count = numbered(labels)
    slow = [ndimage.label(labels == i, EIGHT)[1] > 1 for i in range(1, count + 1)]
    assert disconnected_cells(labels, count).tolist() == slow


@pytest.fixture
def make(tmp_path):
    """Writes an image of (4, 6) px and label maps beside it, and gives the sample."""
    def write(key='a', seed=0, **labels):
        folder = tmp_path / key
        folder.mkdir()
        pixels = np.random.default_rng(seed).integers(0, 255, (4, 6, 3), np.uint8)
        tifffile.imwrite(folder / 'image.tif', pixels, photometric='rgb')
        for name, values in labels.items():
            tifffile.imwrite(folder / f'{name}.tif', np.array(values))
        return Sample(key, folder / 'image.tif', {name: folder / f'{name}.tif' for name in labels})
    return write


X = [[1, 1, 2, 2, 0, 7], [1, 1, 2, 2, 0, 0], [0, 0, 0, 0, 0, 0], [300., 0, 0, 0, 0, 7]]
Y = [[0, 0, 0, 5, 5, 0], [0, 0, 0, 5, 5, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]


def test_an_image_and_its_cells_are_described(make):
    report = inspect(make(x=X, y=np.array(Y, np.uint8)), ['x', 'y'])
    assert not report.problems
    assert report.size == (4, 6)
    assert [(cell['category'], cell['area']) for cell in report.cells] == [
        ('x', 4), ('x', 4), ('x', 2), ('x', 1), ('y', 4)]
    assert report.touching.tolist() == [True, True, False, False, False]
    assert report.disconnected.tolist() == [False, False, True, False, False]
    assert report.overlapping.tolist() == [False, True, False, False, True]


def test_classes_that_are_not_asked_for_are_not_read(make):
    sample = make(x=X, y=Y)
    sample.labels['y'].write_bytes(b'broken')
    assert len(inspect(sample, ['x']).cells) == 4


def test_all_problems_of_an_image_are_reported_together(make):
    sample = make(x=[[float('nan')] * 6] * 4, y=[[1, 2]])
    found = [str(problem) for problem in inspect(sample, ['x', 'y']).problems]
    assert len(found) == 2
    assert 'x.tif' in found[0]
    assert 'y.tif' in found[1]


def test_label_maps_are_checked_even_where_the_image_is_broken(make):
    sample = make(x=[[0.5] * 6] * 4)
    sample.image.write_bytes(sample.image.read_bytes()[:50])
    found = [str(problem) for problem in inspect(sample, ['x']).problems]
    assert len(found) == 2
    assert 'image.tif' in found[0]
    assert 'fractional' in found[1]


def test_an_image_of_another_size_than_stated_is_a_problem(make):
    sample = Sample('a', make().image, size=(6, 4))
    assert 'is of 4 x 6 pixels but said to be of 6 x 4' in str(inspect(sample, []).problems[0])


def test_coco_cells_of_one_class_that_overlap_stay_whole_and_touch(make):
    square = {'category': 'x', 'id': 1, 'segmentation': [[0, 0, 3, 0, 3, 3, 0, 3]]}
    below = {'category': 'x', 'id': 2, 'segmentation': [[2, 1, 5, 1, 5, 4, 2, 4]]}
    report = inspect(Sample('a', make().image, annotations=(square, below)), ['x'])
    assert [cell['area'] for cell in report.cells] == [9, 9]
    assert report.touching.tolist() == [True, True]
    assert not report.disconnected.any()


def test_coco_annotations_that_are_broken_are_each_reported(make):
    broken = tuple({'category': 'x', 'id': i, 'segmentation': s} for i, s in enumerate([None, [[1, 2]], [[0] * 6]]))
    report = inspect(Sample('a', make().image, annotations=broken), ['x'])
    assert ['annotation 0' in str(report.problems[0]), 'annotation 1' in str(report.problems[1])] == [True, True]
    assert len(report.problems) == 2
    assert len(report.warnings) == 1


def test_odd_data_bring_warnings(make, tmp_path):
    cells = np.kron(np.arange(1, 101, dtype=np.uint8).reshape(10, 10), np.pad(np.ones((2, 2), np.uint8), (0, 4)))
    cells[0, 0] = 0
    cells[30:54, 30:54] = 200
    cv2.imwrite(str(tmp_path / 'big.png'), np.zeros((60, 60, 3), np.uint8))
    cv2.imwrite(str(tmp_path / 'labels.png'), cells)
    big = inspect(Sample('big', tmp_path / 'big.png', {'x': tmp_path / 'labels.png'}), ['x', 'y'])
    reports = [big, inspect(make('b'), ['x', 'y']), inspect(make('c', seed=1), ['x', 'y'])]
    warnings = '\n'.join(sentence(*item) for item in warn(reports, [inspect(make('t'), [])], ['x', 'y']).items())
    assert 'times the median area of their class: 1 (big x at x 30, y 30)' in warnings
    assert 'cells under 4 px: 1 (big x at x 0, y 0)' in warnings
    assert 'images without a cell: 2 (b, c)' in warnings
    assert 'images that are equal, pixel for pixel: 1 (b = t)' in warnings
    assert 'classes without a cell: 1 (y)' in warnings


def test_sound_data_bring_no_warning(make):
    block = np.kron([[1, 2, 3]], np.ones((4, 2), int))
    assert warn([inspect(make('a', x=block), ['x']), inspect(make('b', 1, x=block), ['x'])], [], ['x']) == {}


def test_a_warning_names_the_first_three_of_many_places():
    assert sentence('odd', list('abc')) == 'odd: 3 (a, b, c)'
    assert sentence('odd', list('abcd')) == 'odd: 4 (a, b, c, ...; all in warnings.txt)'


def test_the_summary_counts_cells_and_fits_80_columns(make):
    reports = [inspect(make('a', x=X, y=Y), ['x', 'y']), inspect(make('b', 1, x=Y), ['x', 'y'])]
    console = Console(width=80)
    with console.capture() as capture:
        console.print(*summarise(reports, np.array([True, False]), np.array([False, True]), [inspect(make('t'), [])],
                                 ['x', 'y']))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines]
    assert ['x', '4', '1', '5', '40.0%', '1', '1'] in rows
    assert ['y', '1', '0', '1', '0.0%', '0', '1'] in rows
    assert ['all', 'classes', '5', '1', '6', '33.3%', '1', '2'] in rows
    assert ['images', '1', '1', '2'] in rows
    assert ['test', 'images', '1'] in rows
    assert ['area', 'of', 'a', 'cell,', 'px', '1', '1.25', '4', '4', '4'] in rows


def test_a_data_set_without_a_cell_is_summarised_too(make):
    tables = summarise([inspect(make(), ['x'])], np.array([True]), np.array([True]), [], ['x'])
    console = Console(width=80)
    with console.capture() as capture:
        console.print(*tables)
    assert ['all', 'classes', '0', '0', '0', '0.0%', '0', '0'] in [line.split() for line in capture.get().splitlines()]
