"""Label maps and class maps, read back by tifffile and by this project's own reader."""
import time
import tracemalloc
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import tifffile
from export_scenes import CLASSES, scene, slide
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg_mm.export import label_map
from cellseg_mm.export.label_map import write_class_map, write_label_map
from cellseg_mm.io.image import read_label_map, read_pixel_size
from cellseg_mm.structures.cells import Cells
from cellseg_mm.structures.local_masks import LocalMasks


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    return tmp_path_factory.mktemp('maps') / 'image.ome.tif'


scenes = st.builds(scene, st.integers(0, 10**6), st.integers(0, 20), st.sampled_from([16, 33, 70]),
                   st.sampled_from([16, 40, 65]))


@settings(max_examples=40)
@given(scenes, st.sampled_from([16, 32, 512]))
def test_a_label_map_holds_the_number_of_each_cell(path, cells, tile):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_map, '_TILE', tile)
        write_label_map(path, cells)
    found = tifffile.imread(path)
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found, cells.masks.to_label_map())
    np.testing.assert_array_equal(read_label_map(path, found.shape), found)


@settings(max_examples=20)
@given(scenes)
def test_a_class_map_holds_the_class_of_each_cell(path, cells):
    write_class_map(path, cells, CLASSES)
    values = np.append(0, cells.labels + 1)
    found = tifffile.imread(path)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, values[cells.masks.to_label_map()])
    np.testing.assert_array_equal(read_label_map(path), found)


def test_where_cells_overlap_the_later_one_is_seen(path):
    masks = LocalMasks.from_bitmaps(np.random.default_rng(0).random((30, 40, 50)) < 0.4)
    write_label_map(path, Cells(masks, np.zeros(30, np.int64), np.ones(30, np.float32)))
    np.testing.assert_array_equal(tifffile.imread(path), masks.to_label_map())


@pytest.mark.parametrize(('count', 'dtype'), [(255, np.uint8), (256, np.uint16)])
def test_a_class_map_has_room_for_the_last_class(path, count, dtype):
    masks = LocalMasks.from_label_map(np.array([[1, 0], [0, 2]]))
    cells = Cells(masks, np.array([0, count - 1]), np.ones(2, np.float32))
    write_class_map(path, cells, [str(number) for number in range(count)])
    found = tifffile.imread(path)
    assert found.dtype == dtype
    assert found.tolist() == [[1, 0], [0, count]]


def test_the_metadata_tell_classes_and_pixel_size(path):
    write_class_map(path, scene(0), CLASSES, mpp=0.2527)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        page = tiff.pages[0]
        assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert page.tile == (512, 512)
        # For programs that know no OME.
        assert page.resolution == pytest.approx((1e4 / 0.2527, 1e4 / 0.2527))
        assert page.resolutionunit == tifffile.RESUNIT.CENTIMETER
        root = ET.fromstring(tiff.ome_metadata)
    assert {entry.get('K'): entry.text for entry in root.iterfind('.//{*}MapAnnotation//{*}M')} == {
        '1': CLASSES[0], '2': CLASSES[1], '3': CLASSES[2]}
    assert root.find('.//{*}Pixels').attrib.items() >= {
        'PhysicalSizeX': '0.2527', 'PhysicalSizeXUnit': 'µm', 'PhysicalSizeY': '0.2527', 'PhysicalSizeYUnit': 'µm',
    }.items()
    assert read_pixel_size(path) == 0.2527


@pytest.mark.parametrize('mpp', [None, 2.5e-7, 1e-30, 1e9])
def test_an_unknown_or_impossible_pixel_size_is_left_out(path, mpp):
    write_label_map(path, scene(0), mpp)
    assert read_pixel_size(path) is None
    with tifffile.TiffFile(path) as tiff:
        assert 'PhysicalSizeX' not in tiff.ome_metadata


def test_names_of_classes_are_written_without_what_xml_cannot_hold(path):
    names = ['a\0b\x1b[1m', 'c\ud800d\ufffe', '<&"é😀']
    write_class_map(path, scene(0), names)
    with tifffile.TiffFile(path) as tiff:
        root = ET.fromstring(tiff.ome_metadata)
    assert [entry.text for entry in root.iterfind('.//{*}MapAnnotation//{*}M')] == ['ab[1m', 'cd', '<&"é😀']


def test_the_same_cells_give_the_same_bytes_and_others_another_name(path):
    written = []
    for cells in (scene(0, 5, 33, 40), scene(0, 5, 33, 40), scene(1, 5, 33, 40), Cells.none(33, 40)):
        write_label_map(path, cells)
        written.append((path.read_bytes(), tifffile.TiffFile(path).ome_metadata.split('UUID="urn:uuid:')[1][:36]))
    assert written[0] == written[1]
    assert len({uuid for _, uuid in written}) == 3


def test_a_map_without_cells_is_background(path):
    write_label_map(path, Cells.none(30, 700))
    np.testing.assert_array_equal(read_label_map(path), np.zeros((30, 700)))
    write_class_map(path, Cells.none(30, 700), [])
    np.testing.assert_array_equal(read_label_map(path), np.zeros((30, 700)))


def test_maps_beyond_classic_tiff_are_big_ones(path, monkeypatch):
    cells = scene(1)
    write_label_map(path, cells)
    with tifffile.TiffFile(path) as tiff:
        assert not tiff.is_bigtiff
    monkeypatch.setattr(label_map, '_CLASSIC_BYTES', 4 * cells.masks.height * cells.masks.width - 1)
    write_label_map(path, cells)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff
    np.testing.assert_array_equal(read_label_map(path), cells.masks.to_label_map())


def test_an_error_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / 'image.ome.tif'
    path.write_text('old')

    def breaks(masks, values):
        yield np.zeros((512, 512), values.dtype)
        raise OSError('no space')

    monkeypatch.setattr(label_map, '_tiles', breaks)
    with pytest.raises(OSError, match='no space'):
        write_label_map(path, slide(2000, 4))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [('image.ome.tif', 'old')]


def test_the_canvas_of_a_slide_is_never_held(path):
    cells = slide(20_000, 2500)
    write_label_map(path, scene(0))  # compiled
    tracemalloc.start()
    write_label_map(path, cells)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Of 1.6 GB.
    assert peak < 60e6
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages[0].shape == (20_000, 20_000)


def test_ten_thousand_cells_take_no_second(path):
    cells = slide(2500, 10_000)
    write_label_map(path, cells[np.arange(3)])  # compiled
    start = time.process_time()
    write_label_map(path, cells)
    assert time.process_time() - start < 1
    assert read_label_map(path).max() == 10_000
