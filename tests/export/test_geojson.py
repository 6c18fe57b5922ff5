"""GeoJSON files, read back by geojson and shapely and held to the form that QuPath documents."""
import json
import time

import geojson
import numpy as np
import pytest
import shapely
from export_scenes import CLASSES, COLORS, scene, slide
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg_mm.export.geojson import TOLERANCE, write_geojson
from cellseg_mm.structures.cells import Cells
from cellseg_mm.structures.contours import polygons


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    return tmp_path_factory.mktemp('geojson') / 'image.geojson'


def written(path, cells, **options):
    write_geojson(path, cells, CLASSES, COLORS, **options)
    return json.loads(path.read_text(encoding='utf-8'), parse_constant=pytest.fail)


def shapes_of(collection):
    return np.array([shapely.geometry.shape(feature['geometry']) for feature in collection['features']], object)


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_files_have_the_form_that_qupath_documents(path, seed):
    cells = scene(seed)
    columns = {'area_px': cells.masks.areas, 'class': np.array(['a'] * len(cells))}
    collection = written(path, cells, measurements=columns)
    assert collection.keys() == {'type', 'features'}
    assert collection['type'] == 'FeatureCollection'
    for number, feature in enumerate(collection['features']):
        assert feature.keys() == {'type', 'geometry', 'properties'}
        assert feature['type'] == 'Feature'
        assert feature['geometry']['type'] in ('Polygon', 'MultiPolygon')
        properties, label = feature['properties'], cells.labels[number]
        assert properties == {
            'objectType': 'detection', 'classification': {'name': CLASSES[label], 'color': list(COLORS[label])},
            'measurements': {'cell': number + 1, 'score': pytest.approx(cells.scores[number], abs=1e-6),
                             'area_px': cells.masks.areas[number]}}


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_geojson_finds_nothing_wrong(path, seed):
    write_geojson(path, scene(seed), CLASSES, COLORS)
    collection = geojson.loads(path.read_text(encoding='utf-8'))
    assert isinstance(collection, geojson.FeatureCollection)
    assert collection.errors() == []
    assert collection.is_valid
    # As RFC 7946 wants it, where y points up: shells run counter-clockwise, holes clockwise.
    for shape in shapes_of(collection):
        for part in shapely.get_parts(shape):
            assert part.exterior.is_ccw
            assert not any(hole.is_ccw for hole in part.interiors)


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_exact_outlines_cover_the_pixels(path, seed):
    cells = scene(seed)
    shapes = shapes_of(written(path, cells, tolerance=0))
    for shape, mask in zip(shapes, cells.masks.to_ndarray(), strict=True):
        y, x = np.nonzero(mask)
        assert shapely.symmetric_difference(shape, shapely.union_all(shapely.box(x, y, x + 1, y + 1))).area == 0


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([TOLERANCE, 1, 2.5]))
def test_simplified_outlines_are_valid_and_near(path, seed, tolerance):
    cells = scene(seed)
    shapes = shapes_of(written(path, cells, tolerance=tolerance))
    assert shapely.is_valid(shapes).all()
    assert (shapely.area(shapes) > 0).all()
    assert (shapely.hausdorff_distance(shapes, polygons(cells.masks)) <= tolerance + 1e-9).all()


def test_an_image_without_cells_has_no_feature(path):
    assert written(path, Cells.none(30, 40)) == {'type': 'FeatureCollection', 'features': []}


def test_values_that_are_not_finite_are_left_out(path):
    cells = scene(3)
    values = np.resize([np.nan, 1234567.0, np.inf, -1e-9], len(cells))
    features = written(path, cells, measurements={'"x"': values})['features']
    found = [feature['properties']['measurements'].get('"x"') for feature in features[:4]]
    assert found == [None, 1234567, None, -1e-9]


def test_an_error_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / 'image.geojson'
    path.write_text('old')
    cells = slide(2000, 5000, size=3)
    with pytest.raises(IndexError):
        write_geojson(path, cells, CLASSES, COLORS, {'too short': np.arange(4500.0)})
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [('image.geojson', 'old')]


def test_ten_thousand_cells_take_two_seconds_at_most(tmp_path):
    cells = slide(2500, 10_000)
    measurements = {f'column {number}': np.random.default_rng(0).random(10_000) for number in range(25)}
    write_geojson(tmp_path / 'few.geojson', cells[np.arange(3)], CLASSES, COLORS)  # compiled
    start = time.process_time()
    write_geojson(tmp_path / 'many.geojson', cells, CLASSES, COLORS, measurements)
    assert time.process_time() - start < 2
    collection = json.loads((tmp_path / 'many.geojson').read_text())
    assert len(collection['features']) == 10_000
    assert collection['features'][-1]['properties']['measurements']['cell'] == 10_000
