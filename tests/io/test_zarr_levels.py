import shutil

import cv2
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from slide_checks import assert_windows_equal

from cellseg_mm.errors import CellDataError
from cellseg_mm.io import zarr_levels
from cellseg_mm.io.slide import open_slide

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (90, 130, 3), np.uint8)
GREY = RGB[..., 0]
BGR = RGB[..., ::-1]


def repeated(grey):
    return np.repeat(grey[..., None], 3, axis=-1)


def axes_of(names, unit='micrometer'):
    kinds = {'t': 'time', 'c': 'channel'}
    return [{'name': name, 'type': kinds.get(name, 'space'), **({'unit': unit} if unit and name in 'zyx' else {})}
            for name in names]


def write_ome(path, levels, names='cyx', version='0.5', scale=0.25, unit='micrometer', **kwargs):
    """Write an OME-Zarr image: arrays in the order of `names`, and what the specification asks for."""
    group = zarr.open_group(path, mode='w', zarr_format=3 if version == '0.5' else 2)
    datasets = []
    for i, level in enumerate(levels):
        names_of = {'dimension_names': list(names)} if version == '0.5' else {}
        array = group.create_array(str(i), shape=level.shape, dtype=level.dtype,
                                   **{'chunks': tuple(min(32, size) for size in level.shape), **names_of, **kwargs})
        array[...] = level
        step = scale * levels[0].shape[-1] / level.shape[-1]
        datasets.append({'path': str(i), 'coordinateTransformations': [
            {'type': 'scale', 'scale': [step if name in 'zyx' else 1.0 for name in names]}]})
    multiscales = [{'axes': axes_of(names, unit), 'datasets': datasets, 'name': 'image', 'version': version}]
    group.attrs.update({'ome': {'version': version, 'multiscales': multiscales}} if version == '0.5' else
                       {'multiscales': multiscales})
    return path


@settings(max_examples=15)
@given(st.sampled_from([2, 3]), st.permutations('yxs'), st.data())
def test_windows_are_those_of_the_array_in_any_layout(tmp_path_factory, version, names, data):
    shape = data.draw(st.tuples(st.integers(1, 60), st.integers(1, 60), st.sampled_from([1, 3])))
    rgb = np.random.default_rng(shape[0]).integers(0, 256, shape, np.uint8)
    stored = np.transpose(rgb, ['yxs'.index(name) for name in names])
    options = {'chunks': tuple(data.draw(st.integers(1, size)) for size in stored.shape)}
    if version == 3:
        options['dimension_names'] = list(names)
        if data.draw(st.booleans()):
            options['shards'] = tuple(2 * size for size in options['chunks'])
    else:
        options['attributes'] = {'_ARRAY_DIMENSIONS': list(names)}
        options['order'] = data.draw(st.sampled_from('CF'))
    path = tmp_path_factory.getbasetemp() / 'layout.zarr'
    shutil.rmtree(path, ignore_errors=True)
    zarr.create_array(path, data=stored, zarr_format=version, **options)
    assert_windows_equal(path, np.broadcast_to(rgb[..., ::-1], (*shape[:2], 3)), count=6)


@pytest.mark.parametrize('version', ['0.4', '0.5'])
@pytest.mark.parametrize('names', ['cyx', 'tczyx', 'yxc', 'czyx'])
def test_ome_zarr_reads_by_the_names_of_its_axes(tmp_path, version, names):
    stored = np.moveaxis(RGB, -1, names.replace('t', '').replace('z', '').index('c'))
    stored = stored.reshape([dict(zip('yxc', RGB.shape, strict=True)).get(name, 1) for name in names])
    path = write_ome(tmp_path / 'image.zarr', [stored], names, version)
    assert_windows_equal(path, BGR)
    with open_slide(path) as slide:
        assert slide.mpp == 0.25
        assert slide.path == path


@pytest.mark.parametrize('version', ['0.4', '0.5'])
def test_overviews_come_from_the_smallest_level_that_is_large_enough(tmp_path, version):
    smooth = cv2.GaussianBlur(RGB, (0, 0), 4)
    half, quarter = np.full((45, 65, 3), 2, np.uint8), np.full((22, 32, 3), 4, np.uint8)
    path = write_ome(tmp_path / 'image.zarr', [np.moveaxis(level, -1, 0) for level in (smooth, half, quarter)],
                     version=version)
    with open_slide(path) as slide:
        assert (slide.overview(65) == 2).all()
        assert (slide.overview(32) == 4).all()
        assert slide.overview(32).shape == (22, 32, 3)
        expected = cv2.resize(smooth[..., ::-1], (100, 69), interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(slide.overview(100) - expected).max() <= 2


@pytest.mark.parametrize('unlike', [np.full((2, 45, 65), 2, np.uint8), np.full((3, 45, 65), 2, np.uint16),
                                    np.full((4, 45, 65), 2, np.uint8), np.full((45, 65), 2, np.uint8)])
def test_levels_unlike_the_first_are_passed_over(tmp_path, unlike):
    path = write_ome(tmp_path / 'image.zarr', [np.moveaxis(RGB, -1, 0), np.full((3, 22, 32), 4, np.uint8)])
    group = zarr.open_group(path)
    group.create_array('2', data=unlike)
    attributes = group.attrs['ome']
    attributes['multiscales'][0]['datasets'].insert(1, {'path': '2'})
    group.attrs['ome'] = attributes
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.overview(130), BGR)
        assert not (slide.overview(65) == 2).all()
        assert (slide.overview(32) == 4).all()


def test_grey_and_wide_samples_are_shown_as_those_of_tiff_files(tmp_path):
    assert_windows_equal(write_ome(tmp_path / 'grey.zarr', [GREY], 'yx'), repeated(GREY))
    assert_windows_equal(write_ome(tmp_path / 'one.zarr', [GREY[None]]), repeated(GREY))
    wide = np.stack([GREY.astype(np.uint16) * 10, GREY.astype(np.uint16)[::-1] * 100])
    path = write_ome(tmp_path / 'wide.zarr', [wide])
    with open_slide(path, (0, 100)) as slide:
        image = slide.read(0, 0, 130, 90)
    assert (image[..., 0] == 0).all()
    assert np.abs(image[..., 2] - (GREY.astype(int) - GREY.min()) / np.ptp(GREY) * 255).max() <= 0.51
    assert image[..., 1].max() == 255
    colors = (np.dstack([GREY, GREY * 0, GREY]) * np.array([1, 1, 100], np.uint16)).astype('>u2')
    path = tmp_path / 'colors.zarr'
    array = zarr.create_array(path, data=colors, zarr_format=2, attributes={'_ARRAY_DIMENSIONS': ['y', 'x', 'rgb']})
    assert array.dtype == '>u2'
    with open_slide(path, (0, 100)) as slide:
        image = slide.read(0, 0, 130, 90)
    assert image[..., 2].max() < 5 < image[..., 0].max() == 255


def test_two_dimensions_without_names_are_rows_and_columns(tmp_path):
    for version in (2, 3):
        path = tmp_path / f'plain{version}.zarr'
        zarr.create_array(path, data=GREY, zarr_format=version)
        assert_windows_equal(path, repeated(GREY))
        with open_slide(path) as slide:
            assert slide.mpp is None


def test_an_array_may_be_named_inside_a_group(tmp_path):
    group = zarr.open_group(tmp_path / 'group.zarr', mode='w')
    group.create_array('raw', data=GREY)
    assert_windows_equal(tmp_path / 'group.zarr' / 'raw', repeated(GREY))
    with pytest.raises(CellDataError, match='is a Zarr group without an image; name one of its arrays'):
        open_slide(tmp_path / 'group.zarr')


@pytest.mark.parametrize(('data', 'names', 'problem'), [
    (RGB, None, 'does not name its 3 dimensions; write it with dimension_names='),
    (RGB, ['y', 'x', None], 'does not name its 3 dimensions'),
    (RGB, ['y', 'x', 'z'], 'is a stack of images, 3 along z; save one of them by itself'),
    (RGB, ['t', 'y', 'x'], 'is a stack of images, 90 along t'),
    (RGB[..., None].repeat(2, -1), ['y', 'x', 's', 'c'], 'is a stack of images, several samples each'),
    (RGB, ['a', 'b', 'c'], 'has the dimensions a, b, c; name two of them y and x'),
    (RGB, ['y', 'x', 'x'], 'has the dimensions y, x, x'),
    (np.dstack([RGB, GREY]), ['y', 'x', 'c'], 'has 4 channels; save one to three channels'),
    (GREY.astype(np.complex64), None, 'has the pixel type complex64'),
    (GREY[:0], None, 'holds no image of at least one pixel')])
def test_arrays_that_are_not_one_image_are_refused(tmp_path, data, names, problem):
    path = tmp_path / 'array.zarr'
    zarr.create_array(path, shape=data.shape, dtype=data.dtype, chunks=(10, ) * data.ndim, dimension_names=names)
    with pytest.raises(CellDataError, match=problem) as caught:
        open_slide(path)
    assert str(caught.value).startswith(f'{path}: ')


@pytest.mark.parametrize(('attributes', 'problem'), [
    ({'plate': {}}, 'is a plate of many images; name one of them, such as plate.zarr/A/1/0'),
    ({'ome': {'well': {}}}, 'is a plate of many images'),
    ({'bioformats2raw.layout': 3}, 'is a collection of images; name one of them, such as its subfolder 0'),
    ({}, 'is a Zarr group without an image'),
    ({'multiscales': []}, 'is damaged or of an unsupported form'),
    ({'multiscales': [{'datasets': [{'path': '0'}]}]}, 'names 0 axes for 3 dimensions; write it again'),
    ({'multiscales': [{'axes': ['c', 'y', 'x'], 'datasets': [{'path': '0'}]}]}, 'names 0 axes for 3 dimensions'),
    ({'multiscales': [{'axes': axes_of('cyx'), 'datasets': [{'path': '7'}]}]}, 'is damaged or of an unsupported form')])
def test_groups_that_are_not_one_image_are_refused(tmp_path, attributes, problem):
    path = tmp_path / 'group.zarr'
    group = zarr.open_group(path, mode='w')
    group.create_array('0', data=np.moveaxis(RGB, -1, 0))
    group.attrs.update(attributes)
    with pytest.raises(CellDataError, match=problem):
        open_slide(path)


@pytest.mark.parametrize(('unit', 'scale', 'expected'), [
    ('micrometer', 0.5, 0.5), ('nanometer', 250, 0.25), ('millimeter', 0.00025, 0.25), ('angstrom', 2500, 0.25),
    ('µm', 0.5, 0.5), (None, 0.5, None), ('parsec', 0.5, None), ('micrometer', 500, None)])
def test_pixel_size_is_what_scale_and_unit_say(tmp_path, unit, scale, expected):
    path = write_ome(tmp_path / 'image.zarr', [GREY], 'yx', unit=unit, scale=scale)
    with open_slide(path) as slide:
        assert slide.mpp == (expected and pytest.approx(expected))


def test_scales_of_all_levels_multiply_those_of_each(tmp_path):
    path = write_ome(tmp_path / 'image.zarr', [GREY], 'yx', scale=0.5)
    attributes = zarr.open_group(path).attrs['ome']
    attributes['multiscales'][0]['coordinateTransformations'] = [{'type': 'scale', 'scale': [1.0, 2.0]}]
    zarr.open_group(path).attrs['ome'] = attributes
    with open_slide(path) as slide:
        assert slide.mpp == 1
    del attributes['multiscales'][0]['coordinateTransformations']
    del attributes['multiscales'][0]['datasets'][0]['coordinateTransformations']
    zarr.open_group(path).attrs['ome'] = attributes
    with open_slide(path) as slide:
        assert slide.mpp is None


def test_a_damaged_chunk_shows_where_it_is_read_and_nowhere_else(tmp_path):
    path = write_ome(tmp_path / 'image.zarr', [GREY], 'yx')
    chunk = path / '0' / 'c' / '1' / '2'
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(0, 32, 64, 32), repeated(GREY[32:64, :64]))
        for read in (lambda: slide.read(63, 32, 2, 2), lambda: slide.overview(60)):
            with pytest.raises(CellDataError, match='is damaged or of an unsupported form'):
                read()


@pytest.mark.parametrize('content', ['', '{', '[]', '{}', '{"zarr_format": 3, "node_type": "array"}'])
def test_broken_metadata_are_refused(tmp_path, content):
    path = tmp_path / 'broken.zarr'
    path.mkdir()
    (path / 'zarr.json').write_text(content)
    with pytest.raises(CellDataError) as caught:
        open_slide(path)
    assert '\n' not in str(caught.value)


def test_more_pixels_than_the_folder_can_hold_are_refused(tmp_path):
    zarr.create_array(tmp_path / 'a.zarr', shape=(2**31, 2**31, 3), chunks=(1024, 1024, 3), dtype='u1',
                      dimension_names=['y', 'x', 's'])
    with pytest.raises(CellDataError, match='claims 2147483648 x 2147483648 pixels, more than its bytes can hold'):
        open_slide(tmp_path / 'a.zarr')


def test_a_slide_may_lack_most_of_its_chunks(tmp_path):
    array = zarr.create_array(tmp_path / 'a.zarr', shape=(40_000, 40_000, 3), chunks=(256, 256, 3), dtype='u1',
                              fill_value=255, dimension_names=['y', 'x', 's'])
    array[20_224:20_480, 20_224:20_736] = RNG.integers(0, 256, (256, 512, 3), np.uint8)
    with open_slide(tmp_path / 'a.zarr') as slide:
        np.testing.assert_array_equal(slide.read(20_220, 20_224, 9, 7), array[20_224:20_231, 20_220:20_229][..., ::-1])


def test_a_chunk_of_a_trillion_pixels_takes_no_memory(tmp_path):
    path = tmp_path / 'chunk.zarr'
    zarr.create_array(path, shape=(10**6, 10**6), chunks=(10**6, 10**6), dtype=np.uint8)
    with pytest.raises(CellDataError, match='is stored in chunks of 1000000 x 1000000; write it in smaller ones'):
        open_slide(path)


def test_chunks_of_all_colours_of_a_pixel_count_together(tmp_path, monkeypatch):
    zarr.create_array(tmp_path / 'image.zarr', data=RGB, chunks=(64, 64, 1), dimension_names=['y', 'x', 's'])
    monkeypatch.setattr(zarr_levels, '_MOST_AT_ONCE', 3 * 64**2)
    assert_windows_equal(tmp_path / 'image.zarr', BGR, count=1)
    monkeypatch.setattr(zarr_levels, '_MOST_AT_ONCE', 3 * 64**2 - 1)
    with pytest.raises(CellDataError, match='is stored in chunks of 64 x 64 x 1'):
        open_slide(tmp_path / 'image.zarr')
