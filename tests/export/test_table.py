"""Tables of cells, against scikit-image's measurements and read back by pandas."""
import time
import tracemalloc

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from export_scenes import CLASSES, scene, slide
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from skimage.color import rgb2hed
from skimage.measure import regionprops

from cellseg_mm.export import table
from cellseg_mm.export.table import measure, write_csv, write_parquet
from cellseg_mm.structures.cells import Cells

COLUMNS = ['cell', 'class', 'score', 'x_px', 'y_px', 'area_px', 'perimeter_px', 'major_axis_px', 'minor_axis_px',
           'eccentricity', 'orientation', 'solidity', 'mean_red', 'mean_green', 'mean_blue', 'mean_hematoxylin',
           'mean_eosin', 'mean_dab']


class Windows:
    """An image of random pixels, or of one value, that is read by windows."""

    def __init__(self, height, width, value=None, seed=0):
        self.value, self.largest = value, 0
        if value is None:
            self.pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)

    def read(self, x, y, width, height):
        self.largest = max(self.largest, width * height)
        if self.value is not None:
            return np.full((height, width, 3), self.value, np.uint8)
        return self.pixels[y:y + height, x:x + width]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('tables')


def test_columns_are_named_and_ordered(folder):
    cells = scene(0)
    assert list(measure(cells, CLASSES, Windows(60, 75))) == COLUMNS
    assert list(measure(cells, CLASSES, Windows(60, 75), mpp=0.25)) == [
        *COLUMNS[:5], 'x_um', 'y_um', 'area_px', 'area_um2', *COLUMNS[6:9],
        'perimeter_um', 'major_axis_um', 'minor_axis_um', *COLUMNS[9:]]


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_values_are_those_of_regionprops(seed):
    cells, image = scene(seed), Windows(60, 75, seed=seed)
    found = measure(cells, CLASSES, image)
    assert found['cell'].tolist() == list(range(1, len(cells) + 1))
    assert found['class'].tolist() == [CLASSES[label] for label in cells.labels]
    np.testing.assert_array_equal(found['score'], cells.scores)
    for i, region in enumerate(regionprops(cells.masks.to_label_map(), image.pixels[..., ::-1])):
        assert region.label == found['cell'][i]
        assert found['area_px'][i] == region.area
        assert (found['y_px'][i], found['x_px'][i]) == pytest.approx(region.centroid)
        assert found['perimeter_px'][i] == pytest.approx(region.perimeter)
        assert found['major_axis_px'][i] == pytest.approx(region.axis_major_length)
        assert found['minor_axis_px'][i] == pytest.approx(region.axis_minor_length, abs=1e-6)
        assert found['eccentricity'][i] == pytest.approx(region.eccentricity, abs=1e-6)
        assert found['solidity'][i] == pytest.approx(region.solidity)
        assert [found[f'mean_{name}'][i] for name in ('red', 'green', 'blue')] == pytest.approx(region.intensity_mean)


@pytest.mark.parametrize('mpp', [0.25, 0.5022])
def test_micrometres_are_pixels_times_their_size(mpp):
    found = measure(scene(2), CLASSES, Windows(60, 75), mpp)
    for name in ('x', 'y', 'perimeter', 'major_axis', 'minor_axis'):
        np.testing.assert_allclose(found[f'{name}_um'], mpp * found[f'{name}_px'])
    np.testing.assert_allclose(found['area_um2'], mpp**2 * found['area_px'])


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_stains_are_those_of_scikit_image(seed):
    cells, image = scene(seed), Windows(60, 75, seed=seed)
    # Mixtures of the stains, none of which scikit-image cuts off.
    amounts = np.random.default_rng(seed).uniform(0.02, 0.05, (60, 75, 3))
    density = amounts @ np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
    image.pixels = np.rint(255 * np.exp(density * np.log(1e-6))).astype(np.uint8)[..., ::-1]
    stains = rgb2hed(image.pixels[..., ::-1])
    assert (stains > 0).all()
    found = measure(cells, CLASSES, image)
    for i, mask in enumerate(cells.masks.to_ndarray().astype(bool)):
        assert [found[f'mean_{name}'][i] for name in ('hematoxylin', 'eosin', 'dab')] == pytest.approx(
            stains[mask].mean(0), abs=1e-9)


def test_pure_stains_are_told_apart():
    cells = slide(100, 1)
    purple = np.rint(255 * np.exp(0.1 * np.array([0.65, 0.70, 0.29]) * np.log(1e-6)))
    found = measure(cells, CLASSES, Windows(100, 100, purple[::-1]))
    assert found['mean_hematoxylin'] == pytest.approx([0.1], abs=1e-3)
    assert [*found['mean_eosin'], *found['mean_dab']] == pytest.approx([0, 0], abs=1e-3)


@pytest.mark.parametrize('rows', [3, 2**16])
@pytest.mark.parametrize('mpp', [None, 0.25])
def test_pandas_reads_both_files_back(folder, monkeypatch, mpp, rows):
    monkeypatch.setattr(table, '_ROWS', rows)
    columns = measure(scene(5, count=20), ['a,"b"', 'ü\n', 'c'], Windows(60, 75), mpp)
    write_csv(folder / 'cells.csv', columns)
    write_parquet(folder / 'cells.parquet', columns)
    for found in (pd.read_csv(folder / 'cells.csv', float_precision='round_trip'),
                  pd.read_parquet(folder / 'cells.parquet')):
        assert list(found.columns) == list(columns)
        for name, column in columns.items():
            np.testing.assert_array_equal(found[name].to_numpy(column.dtype), column)


def test_parquet_has_plain_types(folder):
    write_parquet(folder / 'types.parquet', measure(scene(5), CLASSES, Windows(60, 75), 0.25))
    types = {field.name: field.type for field in parquet.read_schema(folder / 'types.parquet')}
    assert types.pop('cell') == types.pop('area_px') == pa.int64()
    assert types.pop('class') == pa.string()
    assert types.pop('score') == pa.float32()
    assert set(types.values()) == {pa.float64()}


@pytest.mark.parametrize('write', [write_csv, write_parquet])
def test_an_image_without_cells_has_a_heading_only(folder, write):
    columns = measure(Cells.none(30, 40), CLASSES, Windows(30, 40), 0.25)
    write(folder / 'none', columns)
    found = pd.read_csv(folder / 'none') if write is write_csv else pd.read_parquet(folder / 'none')
    assert list(found.columns) == list(columns)
    assert len(found) == 0


@pytest.mark.parametrize('write', [write_csv, write_parquet])
def test_an_error_leaves_the_file_that_was_there(tmp_path, write):
    path = tmp_path / 'cells.table'
    path.write_text('old')
    with pytest.raises((ValueError, pa.ArrowInvalid)):
        write(path, {'cell': np.arange(3), 'x': np.arange(2.0)})
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [('cells.table', 'old')]


def test_memory_is_that_of_a_window():
    cells, image = slide(20_000, 2500), Windows(20_000, 20_000, 128)
    measure(scene(0), CLASSES, Windows(60, 75))  # compiled
    tracemalloc.start()
    found = measure(cells, CLASSES, image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert image.largest <= 2048**2
    # Of 1.2 GB.
    assert peak < 40e6
    assert (found['mean_red'] == 128).all()


def test_ten_thousand_cells_take_two_seconds_at_most(folder):
    cells, image = slide(2500, 10_000), Windows(2500, 2500)
    measure(cells[np.arange(3)], CLASSES, image)  # compiled
    start = time.process_time()
    columns = measure(cells, CLASSES, image)
    write_csv(folder / 'many.csv', columns)
    write_parquet(folder / 'many.parquet', columns)
    assert time.process_time() - start < 2
