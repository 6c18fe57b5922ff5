import contextlib
import io
import os
import struct
import subprocess
import sys
import time

import cv2
import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from slide_checks import assert_windows_equal, random_windows
from tifffile import TiffWriter

from cellseg_mm.errors import CellDataError
from cellseg_mm.io import levels, slide, tiff_levels
from cellseg_mm.io.image import read_image, read_pixel_size
from cellseg_mm.io.slide import open_slide

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (150, 210, 3), np.uint8)
GREY = RGB[..., 0]
SMOOTH = cv2.GaussianBlur(RGB, (0, 0), 4)
TILES = {'photometric': 'rgb', 'tile': (32, 32), 'compression': 'zlib', 'metadata': None}


@pytest.fixture
def tiff(tmp_path):
    """Write an array with tifffile's arguments, return the path."""
    def write(array, suffix='.tif', **kwargs):
        path = tmp_path / f'{len(list(tmp_path.iterdir()))}{suffix}'
        tifffile.imwrite(path, array, **kwargs)
        return path
    return write


@pytest.fixture
def by_parts(monkeypatch):
    """Let it fail if a TIFF is read as a whole."""
    monkeypatch.setattr(slide, 'read_raster', None)


@st.composite
def tiff_arguments(draw):
    """An array and arguments of tifffile's writer, of every layout that the format has."""
    kind = draw(st.sampled_from(['grey', 'inverted', 'rgb', 'rgba', 'palette', 'bilevel', 'nibbles', 'channels', 'wide',
                                 'wide rgb', 'float', 'jpeg', 'subsampled']))
    compression, predictor = draw(st.sampled_from([(None, False), ('lzw', False), ('lzw', True), ('zlib', False),
                                                   ('zlib', True), ('packbits', False)]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    samples = {'channels': (draw(st.integers(2, 3)), ), 'rgba': (4, ), 'rgb': (3, ), 'wide rgb': (3, ), 'jpeg': (3, ),
               'subsampled': (3, )}.get(kind, ())
    array = rng.integers(0, 256, (draw(st.integers(1, 90)), draw(st.integers(1, 90)), *samples), np.uint8)
    arguments = {
        'photometric': {'grey': 'minisblack', 'inverted': 'miniswhite', 'palette': 'palette',
                        'subsampled': 'ycbcr'}.get(kind, 'rgb' if samples and kind != 'channels' else 'minisblack'),
        'byteorder': draw(st.sampled_from('<>')), 'bigtiff': draw(st.booleans()),
        'metadata': draw(st.sampled_from([None, {}])),
        **draw(st.one_of(st.fixed_dictionaries({'tile': st.sampled_from([(16, 16), (32, 16), (64, 48)])}),
                         st.fixed_dictionaries({'rowsperstrip': st.sampled_from([1, 7, 16, 32, 99])})))}
    if kind in ('jpeg', 'subsampled'):
        if kind == 'subsampled':
            arguments.update(subsampling=(2, 2), rowsperstrip=32)
        return array, {**arguments, 'compression': 'jpeg'}
    if kind == 'palette':
        arguments['colormap'] = rng.integers(0, 65536, (3, 256), np.uint16)
    elif kind == 'bilevel':
        array, predictor = array > 99, False
    elif kind == 'nibbles':
        array, predictor, compression, arguments['bitspersample'] = array % np.uint8(16), False, None, 4
    elif kind.startswith('wide'):
        array = array.astype(draw(st.sampled_from(['uint16', 'int16', 'uint32']))) * 100
    elif kind == 'float':
        array, predictor = array.astype('float32') / 7, 3 if predictor else False
    if samples:
        separate = draw(st.booleans())
        arguments['planarconfig'] = 'separate' if separate else 'contig'
        array = np.ascontiguousarray(np.moveaxis(array, -1, 0)) if separate else array
    return array, {**arguments, 'compression': compression, 'predictor': predictor}


@settings(max_examples=400)
@given(tiff_arguments(), st.integers(0, 9), st.sampled_from([100, 2**22]))
def test_windows_are_those_of_the_whole_in_any_layout(tmp_path_factory, arguments, seed, band):
    array, kwargs = arguments
    path = tmp_path_factory.getbasetemp() / 'windows.tif'
    tifffile.imwrite(path, array, **kwargs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slide, 'read_raster', None)
        patch.setattr(tiff_levels, '_BAND', band)
        assert_windows_equal(path, read_image(path), seed)


@pytest.mark.parametrize('compression', [None, 'zlib'])
@pytest.mark.parametrize('count', [2, 3])
def test_channels_may_lie_on_pages_of_their_own(tiff, by_parts, compression, count):
    stack = np.moveaxis(RGB, -1, 0)[:count]
    for kwargs in ({'metadata': {'axes': 'CYX'}}, {'imagej': True, 'metadata': {'axes': 'CYX'}},
                   {'ome': True, 'metadata': {'axes': 'CYX'}}, {'metadata': {'axes': 'CYX'}, 'tile': (64, 32)},
                   {'ome': True, 'metadata': {'axes': 'TCZYX'}, 'tile': (64, 32)}):
        array = stack[None, :, None] if len(kwargs['metadata']['axes']) == 5 else stack
        path = tiff(array, photometric='minisblack', **kwargs, compression=compression)
        assert_windows_equal(path, read_image(path))


def test_planes_need_not_follow_one_another(tmp_path, by_parts):
    path = tmp_path / 'apart.ome.tif'
    with TiffWriter(path, ome=True) as writer:
        writer.write(RGB[:9, :9], photometric='rgb')
        writer.write((plane for plane in np.moveaxis(RGB, -1, 0)), shape=(3, 150, 210), dtype=np.uint8, rowsperstrip=7,
                     photometric='minisblack', metadata={'axes': 'CYX'}, align=512)
    assert_windows_equal(path, RGB[..., ::-1])


def test_axes_in_an_odd_order_are_read_whole(tiff):
    path = tiff(RGB, photometric='rgb', metadata={'axes': 'XYS'})
    assert_windows_equal(path, read_image(path))


@pytest.mark.parametrize('kwargs', [{'compression': 'zlib'}, {'compression': 'jpeg'}, {'compression': 'lzw'}])
def test_an_image_in_one_strip_is_held_if_small_and_refused_if_large(tiff, monkeypatch, kwargs):
    path = tiff(RGB, photometric='rgb', rowsperstrip=150, **kwargs)
    monkeypatch.setattr(tiff_levels, '_MOST_AT_ONCE', 210 * 149 * 3)
    assert_windows_equal(path, read_image(path))
    monkeypatch.setattr(slide, '_MOST_HELD', RGB.nbytes - 1)
    with pytest.raises(CellDataError, match='is 210 x 150 pixels in a form that cannot be read by parts; save it as a'):
        open_slide(path)


def test_uncompressed_rows_of_one_strip_are_read_by_parts(tiff, monkeypatch, by_parts):
    path = tiff(RGB, photometric='rgb', rowsperstrip=150)
    monkeypatch.setattr(tiff_levels, '_BAND', 2000)
    monkeypatch.setattr(tiff_levels, '_MOST_AT_ONCE', 2000)
    assert_windows_equal(path, RGB[..., ::-1])


def pyramid(path, full=RGB, subifds=True, steps=(2, 4), writer=None, **kwargs):
    """Write levels that are no averages of the full image, so that it shows which of them was read."""
    with TiffWriter(path, **writer or {}) as file:
        file.write(full, subifds=len(steps) if subifds else 0, **{**TILES, **kwargs})
        for step in steps:
            file.write(np.full_like(full[::step, ::step], step), subfiletype=1, **{**TILES, **kwargs})
    return path


@pytest.mark.parametrize('writer', [{}, {'bigtiff': True}, {'ome': True}])
@pytest.mark.parametrize('subifds', [True, False])
def test_overviews_come_from_the_smallest_level_that_is_large_enough(tmp_path, by_parts, writer, subifds):
    kwargs = {'metadata': {}} if writer.get('ome') else {}
    path = pyramid(tmp_path / 'pyramid.tif', SMOOTH, subifds or bool(kwargs), writer=writer, **kwargs)
    assert_windows_equal(path, SMOOTH[..., ::-1])
    with open_slide(path) as opened:
        for side, height, value in ((50, 36, 4), (52, 37, 4), (60, 43, 2), (105, 75, 2)):
            view = opened.overview(side)
            assert view.shape == (height, side, 3)
            assert (view == value).all()
        np.testing.assert_array_equal(opened.overview(210), SMOOTH[..., ::-1])
        np.testing.assert_array_equal(opened.overview(9999), SMOOTH[..., ::-1])
        expected = cv2.resize(SMOOTH[..., ::-1], (150, 107), interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(opened.overview(150) - expected).max() <= 2


def test_the_levels_of_wide_samples_are_scaled_as_the_image_is(tmp_path, by_parts):
    values = np.linspace(1000, 2000, 150 * 210).astype(np.uint16).reshape(150, 210)
    path = tmp_path / 'wide.tif'
    with TiffWriter(path) as writer:
        writer.write(values, subifds=1, tile=(32, 32), metadata=None)
        writer.write(values[::2, ::2] // 2 + 750, subfiletype=1, tile=(32, 32), metadata=None)
    with open_slide(path, (0, 100)) as opened:
        view = opened.overview(105)[..., 0]
    assert abs(int(view.min()) - 64) <= 1
    assert abs(int(view.max()) - 191) <= 1


def test_damaged_or_unlike_levels_are_passed_over(tmp_path):
    path = pyramid(tmp_path / 'pyramid.tif', SMOOTH)
    expected = cv2.resize(SMOOTH[..., ::-1], (50, 36), interpolation=cv2.INTER_AREA).astype(int)
    data = path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        tags = [level.keyframe.tags['TileByteCounts'] for level in tif.series[0].levels[1:]]
    for tag in tags:
        data = data[:tag.valueoffset] + bytes(4) + data[tag.valueoffset + 4:]
    path.write_bytes(data)
    with open_slide(path) as opened:
        assert np.abs(opened.overview(50) - expected).max() <= 1


def test_a_damaged_tile_shows_where_it_is_read_and_nowhere_else(tiff):
    path = tiff(RGB, **TILES)
    with tifffile.TiffFile(path) as tif:
        # 7 tiles in a row: the one at column 3 of row 2.
        offset, size = tif.pages[0].dataoffsets[17], tif.pages[0].databytecounts[17]
    data = bytearray(path.read_bytes())
    data[offset + 20:offset + size] = bytes(size - 20)
    path.write_bytes(data)
    with open_slide(path) as opened:
        np.testing.assert_array_equal(opened.read(0, 0, 210, 64), RGB[:64, :, ::-1])
        np.testing.assert_array_equal(opened.read(0, 64, 96, 32), RGB[64:96, :96, ::-1])
        for read in (lambda: opened.read(95, 64, 2, 2), lambda: opened.overview(60)):
            with pytest.raises(CellDataError, match='is damaged or of an unsupported form') as caught:
                read()
            assert str(caught.value).startswith(f'{path}: ')


def test_a_file_that_shrinks_while_it_is_open_is_damaged(tiff, monkeypatch):
    monkeypatch.setattr(tiff_levels, '_BAND', 2000)
    for kwargs in ({}, {'compression': 'zlib', 'tile': (32, 32)}):
        path = tiff(np.tile(RGB, (40, 1, 1)), photometric='rgb', **kwargs)
        with open_slide(path) as opened:
            os.truncate(path, path.stat().st_size // 2)
            with pytest.raises(CellDataError, match='the file ends before its pixels do'):
                opened.read(100, 5990, 9, 9)


@pytest.mark.parametrize('kwargs', [{}, TILES, {'compression': 'jpeg', 'rowsperstrip': 16}, {'bigtiff': True},
                                    {'ome': True, 'tile': (64, 64)}])
def test_files_cut_anywhere_are_refused_or_read_as_the_whole(tiff, kwargs):
    path = tiff(RGB, **{'photometric': 'rgb', **kwargs})
    data, whole = path.read_bytes(), read_image(path)
    refused = 0
    for end in RNG.integers(0, len(data), 40):
        path.write_bytes(data[:end])
        try:
            with open_slide(path) as opened:
                np.testing.assert_array_equal(opened.read(0, 0, 210, 150), whole)
        except CellDataError:
            refused += 1
    assert refused


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1), st.sampled_from([{}, TILES, {'compression': 'lzw'}, {'compression': 'jpeg'}]))
def test_damaged_bytes_end_in_pixels_or_a_data_error(tmp_path_factory, seed, kwargs):
    rng = np.random.default_rng(seed)
    path = tmp_path_factory.getbasetemp() / 'damaged.tif'
    tifffile.imwrite(path, RGB[:60, :80], **{'photometric': 'rgb', **kwargs})
    data = np.fromfile(path, np.uint8)
    data[rng.integers(0, 400 if seed % 2 else len(data), 6)] = rng.integers(0, 256, 6)
    path.write_bytes(data.tobytes())
    with contextlib.suppress(CellDataError), open_slide(path) as opened:
        for window in random_windows(opened.height, opened.width, seed, 3):
            opened.read(*window)


def test_what_is_refused_whole_is_refused_by_windows_in_the_same_words(tiff, tmp_path):
    stack = np.stack([GREY] * 5)
    two = tmp_path / 'two.tif'
    with TiffWriter(two) as writer:
        writer.write(RGB, photometric='rgb', metadata=None)
        writer.write(GREY, metadata=None)
    claim = tiff(RGB[:9, :9], photometric='rgb', compression='zlib', metadata=None)
    with tifffile.TiffFile(claim) as tif:
        tags = [tif.pages[0].tags[name] for name in ('ImageWidth', 'ImageLength', 'RowsPerStrip')]
    data = bytearray(claim.read_bytes())
    for tag in tags:
        # Type 4 is a 32-bit integer.
        data[tag.offset + 2:tag.offset + 12] = struct.pack('<HII', 4, 1, 100_000)
    claim.write_bytes(data)
    empty, text = tmp_path / 'empty.tif', tmp_path / 'header.tif'
    empty.write_bytes(b'')
    text.write_bytes(b'II*\0')
    for path in (two, claim, empty, text, tmp_path / 'none.tif', tiff(stack, metadata={'axes': 'ZYX'}),
                 tiff(np.dstack([RGB, GREY]), photometric='minisblack', planarconfig='contig'),
                 tiff(np.dstack([RGB, GREY]), photometric='separated'), tiff(GREY.astype(np.complex64)),
                 tiff(RGB, photometric='ycbcr', metadata=None)):
        with pytest.raises(CellDataError) as whole:
            read_image(path)
        with pytest.raises(CellDataError) as windows:
            open_slide(path)
        assert str(windows.value) == str(whole.value)


def test_percentiles_of_large_images_are_those_of_squares_spread_over_them(tiff, monkeypatch, by_parts):
    values = np.random.default_rng(0).normal(1000, 100, (900, 1100)).astype(np.float32)
    path = tiff(values, tile=(128, 128))
    exact = read_image(path).astype(int)
    monkeypatch.setattr(levels, 'READ_WHOLE', 0)
    monkeypatch.setattr(levels, '_SQUARE', 20)
    with open_slide(path) as opened:
        whole = opened.read(0, 0, 1100, 900)
        for x, y, w, h in random_windows(900, 1100, 0, 9):
            np.testing.assert_array_equal(opened.read(x, y, w, h), whole[y:y + h, x:x + w])
    assert np.abs(whole - exact).max() <= 5


def test_squares_that_show_nothing_do_not_make_a_large_image_black(tiff, monkeypatch):
    monkeypatch.setattr(levels, 'READ_WHOLE', 0)
    monkeypatch.setattr(levels, '_SQUARE', 2)
    monkeypatch.setattr(levels, '_WINDOW', 64)
    for background in (0, np.nan):
        values = np.full((300, 300), background, np.float32)
        values[5:9, 70:75] = 500
        values[201, 203] = 1000
        values[202, 203] = 0
        with open_slide(tiff(values)) as opened:
            window = opened.read(69, 5, 9, 9)
            assert window[0, 1].tolist() == [128] * 3
            assert window[0, 0].tolist() == [0] * 3
            assert opened.read(203, 201, 1, 1).tolist() == [[[255] * 3]]
    steady = np.random.default_rng(0).normal(1000, 100, (300, 300)).astype(np.float32)
    steady[100, 100] = 1e6
    other = np.nan_to_num(values)
    with open_slide(tiff(np.stack([steady, other]), photometric='minisblack', metadata={'axes': 'CYX'})) as opened:
        both = opened.read(0, 0, 300, 300)
    # The one channel keeps its percentiles.
    assert both[..., 2].mean() > 100
    assert both[5, 70].tolist()[1] == 128
    with pytest.raises(CellDataError, match='has no finite pixel'):
        open_slide(tiff(np.full((300, 300), np.nan, np.float32)))
    with open_slide(tiff(np.full((300, 300), 7, np.uint16))) as opened:
        assert not opened.read(0, 0, 300, 300).any()


def ndpi(path, width, height):
    """Write what Hamamatsu's scanners do: one JPEG of restart intervals, and where each begins."""
    image = cv2.resize(SMOOTH, (width, height), interpolation=cv2.INTER_CUBIC)
    buffer = io.BytesIO()
    # Four blocks of 8 columns.
    Image.fromarray(image).save(buffer, 'JPEG', quality=90, subsampling='4:4:4', restart_marker_blocks=4)
    jpeg = buffer.getvalue()
    scan = jpeg.index(b'\xff\xda')
    first = scan + 2 + int.from_bytes(jpeg[scan + 2:scan + 4])
    starts = [first] + [i + 2 for i in range(first, len(jpeg) - 1) if jpeg[i] == 255 and 0xd0 <= jpeg[i + 1] <= 0xd7]
    with TiffWriter(path) as writer:
        writer.write(iter([jpeg]), shape=image.shape, dtype=np.uint8, photometric='ycbcr', compression='jpeg',
                     subsampling=(1, 1), rowsperstrip=height, metadata=None, resolution=(40_000, 40_000),
                     resolutionunit='CENTIMETER', extratags=[
                         (271, 2, 0, 'Hamamatsu', True), (65420, 4, 1, 1, True), (65421, 11, 1, 40.0, True),
                         (65426, 4, len(starts), starts, True)])
    return image


def test_ndpi_is_read_by_its_restart_intervals(tmp_path, by_parts):
    path = tmp_path / 'slide.tif'
    ndpi(path, 256, 128)
    whole = read_image(path)
    with tifffile.TiffFile(path) as tif:
        assert tif.is_ndpi
        assert len(tif.pages[0].dataoffsets) == 128
    assert_windows_equal(path, whole)
    with open_slide(path) as opened:
        assert opened.mpp == pytest.approx(0.25)


def svs(path):
    """Write what Aperio's scanners do: a pyramid of JPEG tiles, a thumbnail, and the pixel size in words."""
    description = 'Aperio Image Library v12.0.15\n{} (64x64) JPEG/RGB Q=90|AppMag = 20|MPP = 0.4990|Left = 1.0'
    image = cv2.resize(SMOOTH, (700, 500), interpolation=cv2.INTER_CUBIC)
    options = {'photometric': 'rgb', 'compression': 'jpeg', 'compressionargs': {'level': 90}, 'metadata': None}
    with TiffWriter(path) as writer:
        writer.write(image, tile=(64, 64), description=description.format('700x500'), **options)
        writer.write(image[::5, ::5], description=description.format('700x500 -> 140x100'), **options)
        writer.write(image[::4, ::4], tile=(64, 64), description=description.format('700x500 -> 175x125'), **options)
        writer.write(image[:90, :90], description='Aperio\nlabel 90x90', subfiletype=1, **options)
    return path


def test_svs_is_read_as_openslide_reads_it(tmp_path, by_parts):
    path = svs(tmp_path / 'slide.svs')
    reference = openslide.OpenSlide(path)
    assert reference.detect_format(path) == 'aperio'
    with open_slide(path) as opened:
        assert (opened.width, opened.height) == reference.dimensions == (700, 500)
        assert opened.mpp == read_pixel_size(path) == float(reference.properties['openslide.mpp-x']) == 0.499
        assert_windows_equal(path, read_image(path))
        for x, y, w, h in random_windows(500, 700, 0, 9):
            region = np.asarray(reference.read_region((x, y), 0, (w, h)))[..., 2::-1]
            assert np.abs(opened.read(x, y, w, h).astype(int) - region).max() <= 2
        view = opened.overview(175)
        region = np.asarray(reference.read_region((0, 0), 1, (175, 125)))[..., 2::-1]
        assert np.abs(view.astype(int) - region).max() <= 2


def test_svs_of_colours_that_are_not_known_here_is_read_by_openslide(tmp_path, monkeypatch):
    path = svs(tmp_path / 'slide.svs')
    with open_slide(path) as opened:
        expected = opened.read(0, 0, 700, 500)

    def refuse(path, series):
        raise CellDataError(path, 'has the colour model of tomorrow', 'save it as RGB')

    monkeypatch.setattr(tiff_levels, 'channels_of', refuse)
    with open_slide(path) as opened:
        assert opened.mpp == 0.499
        assert np.abs(opened.read(0, 0, 700, 500).astype(int) - expected).max() <= 2
    monkeypatch.setitem(sys.modules, 'openslide', None)
    with pytest.raises(CellDataError, match='has the colour model of tomorrow; save it as RGB'):
        open_slide(path)


def test_tiled_pyramids_are_read_as_openslide_reads_them(tmp_path, by_parts):
    path = pyramid(tmp_path / 'pyramid.tif', subifds=False, tile=(64, 64), resolution=(20_000, 20_000),
                   resolutionunit='CENTIMETER')
    reference = openslide.OpenSlide(path)
    assert reference.detect_format(path) == 'generic-tiff'
    with open_slide(path) as opened:
        assert opened.mpp == pytest.approx(float(reference.properties['openslide.mpp-x'])) == pytest.approx(0.5)
        for x, y, w, h in random_windows(150, 210, 0, 9):
            region = np.asarray(reference.read_region((x, y), 0, (w, h)))[..., 2::-1]
            np.testing.assert_array_equal(opened.read(x, y, w, h), region)
        assert reference.level_count == 3
        assert (opened.overview(100) == 2).all()


SIDE, TILE = 20_000, 512


def tile_of(index):
    """Pixels that tell where they lie."""
    y, x = np.mgrid[:TILE, :TILE]
    return np.dstack([(x + index) % 251, (y // 16 + 3 * index) % 241, np.full_like(x, index)]).astype(np.uint8)


def large_slide(path):
    """Write 20,000 x 20,000 pixels in tiles of 16 kinds."""
    encoded = [imagecodecs.zlib_encode(tile_of(kind).tobytes()) for kind in range(16)]
    columns = -(-SIDE // TILE)
    with TiffWriter(path, bigtiff=True) as writer:
        writer.write((encoded[i % 16] for i in range(columns**2)), shape=(SIDE, SIDE, 3), dtype=np.uint8,
                     tile=(TILE, TILE), photometric='rgb', compression='zlib', metadata=None)


READ_ALL = """
import resource, sys
import numpy as np
from cellseg_mm.io.slide import open_slide
with open_slide(sys.argv[1]) as slide:
    sums = np.zeros(3, np.int64)
    for y in range(0, slide.height, 1000):
        for x in range(0, slide.width, 1000):
            sums += slide.read(x, y, 1000, 1000).sum(axis=(0, 1), dtype=np.int64)
    slide.overview(1024)
print(*sums, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_a_slide_of_20000_pixels_a_side_is_read_in_less_than_700_mb(tmp_path):
    path = tmp_path / 'large.tif'
    large_slide(path)
    start = time.perf_counter()
    done = subprocess.run([sys.executable, '-c', READ_ALL, path], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    *sums, megabytes = map(int, done.stdout.split())
    print(f'{megabytes} MB, {2 * 3 * SIDE**2 / 1e6 / seconds:.0f} MB/s')
    # 201 of them are the overview that is kept.
    assert megabytes < 700
    columns, expected = -(-SIDE // TILE), np.zeros(3, np.int64)
    for index in range(columns**2):
        row, column = divmod(index, columns)
        part = tile_of(index % 16)[:SIDE - row * TILE, :SIDE - column * TILE]
        expected += part.sum(axis=(0, 1), dtype=np.int64)
    assert sums == expected[::-1].tolist()
