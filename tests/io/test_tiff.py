import contextlib
import io
import logging
import struct
import tracemalloc

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tifffile import TiffWriter
from truncation import assert_never_half_read

from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.io.image import read_image, read_label_map, read_pixel_size

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (37, 53), np.uint8)
RGB = RNG.integers(0, 256, (37, 53, 3), np.uint8)
RGBA = np.dstack([RGB, GREY])
LARGE = np.tile(RGB, (4, 4, 1))


def bgr(rgb):
    return rgb[..., ::-1]


def repeated(grey):
    return np.repeat(grey[..., None], 3, axis=-1)


@pytest.fixture
def tiff(tmp_path):
    """Write an array with tifffile's arguments, return the path."""
    def write(array, **kwargs):
        path = tmp_path / f'{len(list(tmp_path.iterdir()))}.tif'
        tifffile.imwrite(path, array, **kwargs)
        return path
    return write


class Layout:
    """Where samples lie in the file must not matter."""

    compressions = st.sampled_from([(None, False), ('lzw', False), ('lzw', True), ('zlib', False), ('zlib', True),
                                    ('zstd', False), ('zstd', True), ('packbits', False), ('lzma', False)])

    @staticmethod
    @st.composite
    def arguments(draw):
        compression, predictor = draw(Layout.compressions)
        chunks = draw(st.one_of(st.fixed_dictionaries({'tile': st.sampled_from([(16, 16), (32, 16), (64, 48)])}),
                                st.fixed_dictionaries({'rowsperstrip': st.integers(1, 50)})))
        return {'compression': compression, 'predictor': predictor, 'byteorder': draw(st.sampled_from('<>')),
                'bigtiff': draw(st.booleans()), 'metadata': draw(st.sampled_from([None, {}])), **chunks}


def file_of(array, **kwargs):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **kwargs)
    return file.getvalue()


@settings(max_examples=120, deadline=None)
@given(arguments=Layout.arguments(), planar=st.booleans(), samples=st.integers(3, 5),
       alpha=st.sampled_from([None, 'unspecified', 'assocalpha', 'unassalpha']),
       size=st.tuples(st.integers(1, 70), st.integers(1, 70)), seed=st.integers(0, 9))
def test_rgb_reads_back_exactly_in_any_layout(tmp_path_factory, arguments, planar, samples, alpha, size, seed):
    array = np.random.default_rng(seed).integers(0, 256, (*size, samples), np.uint8)
    extra = {'extrasamples': [alpha] + ['unspecified'] * (samples - 4)} if alpha and samples > 3 else {}
    stored = np.moveaxis(array, -1, 0) if planar else array
    path = tmp_path_factory.getbasetemp() / 'layout.tif'
    path.write_bytes(file_of(stored, photometric='rgb', planarconfig='separate' if planar else 'contig', **extra,
                             **arguments))
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, bgr(array[..., :3]))


@settings(max_examples=120, deadline=None)
@given(arguments=Layout.arguments(), size=st.tuples(st.integers(1, 40), st.integers(1, 40)), seed=st.integers(0, 9),
       dtype=st.sampled_from(['bool', 'uint8', 'int8', 'uint16', 'int16', 'uint32', 'int32', 'uint64', 'int64',
                              'float32', 'float64']))
def test_labels_of_any_type_read_back_exactly(tmp_path_factory, arguments, size, seed, dtype):
    if dtype in ('bool', 'uint64', 'int64', 'float64'):
        # tifffile writes no predictor for these.
        arguments['predictor'] = False
    largest = {'bool': 1, 'float32': 2**24, 'float64': 2**53, 'uint64': 2**63 - 1}.get(dtype) or np.iinfo(dtype).max
    labels = np.random.default_rng(seed).integers(0, largest, size, np.int64, endpoint=True)
    labels.flat[0] = largest
    path = tmp_path_factory.getbasetemp() / 'labels.tif'
    path.write_bytes(file_of(labels.astype(dtype), **arguments))
    read = read_label_map(path, size)
    assert read.dtype == np.int64
    np.testing.assert_array_equal(read, labels)


def test_the_course_forms_read_exactly(tiff):
    image = tiff(RGBA, photometric='rgb', compression='lzw', predictor=2, rowsperstrip=4, metadata=None)
    np.testing.assert_array_equal(read_image(image), bgr(RGB))
    labels = RNG.integers(0, 700, (37, 53))
    path = tiff(labels.astype(np.float64), rowsperstrip=2, metadata=None)
    np.testing.assert_array_equal(read_label_map(path), labels)


@pytest.mark.parametrize('size', [(1, 1), (1, 53), (37, 1), (3, 53), (37, 3), (4, 4), (2, 2)])
def test_sizes_that_look_like_channels_are_sizes(tiff, size):
    grey, rgb = GREY[:size[0], :size[1]], RGB[:size[0], :size[1]]
    np.testing.assert_array_equal(read_image(tiff(grey)), repeated(grey))
    np.testing.assert_array_equal(read_image(tiff(grey, metadata=None)), repeated(grey))
    np.testing.assert_array_equal(read_image(tiff(rgb, photometric='rgb')), bgr(rgb))


def test_white_is_zero_is_inverted_but_label_numbers_stay(tiff):
    path = tiff(GREY, photometric='miniswhite')
    np.testing.assert_array_equal(read_image(path), repeated(255 - GREY))
    np.testing.assert_array_equal(read_label_map(path), GREY)
    bilevel = tiff(GREY > 99, photometric='miniswhite')
    np.testing.assert_array_equal(read_image(bilevel), repeated(np.where(GREY > 99, 0, 255)))
    wide = GREY.astype(np.uint16)
    np.testing.assert_array_equal(read_image(tiff(wide, photometric='miniswhite'), (0, 100)),
                                  255 - read_image(tiff(wide), (0, 100)))


@pytest.mark.parametrize('bits', [1, 2, 4, 7])
def test_few_bits_widen_to_the_full_range_and_stay_labels(tiff, bits):
    values = GREY % np.uint8(2**bits)
    path = tiff(values, bitspersample=bits)
    widened = np.rint(values / (2**bits - 1) * 255)
    np.testing.assert_array_equal(read_image(path)[..., 0], widened)
    np.testing.assert_array_equal(read_label_map(path), values)
    inverted = read_image(tiff(values, bitspersample=bits, photometric='miniswhite'))
    np.testing.assert_array_equal(inverted[..., 0], 255 - widened)


@pytest.mark.parametrize('scale', [257, 1])
def test_palettes_expand_for_images_and_stay_ids_for_labels(tiff, scale):
    palette = RNG.integers(0, 256, (3, 256), np.uint16)
    path = tiff(GREY, photometric='palette', colormap=palette * np.uint16(scale))
    np.testing.assert_array_equal(read_image(path), bgr(palette.T[GREY]))
    np.testing.assert_array_equal(read_label_map(path), GREY)


def test_palettes_of_one_bit_are_indices_not_a_mask(tmp_path):
    path = tmp_path / 'bilevel.tif'
    Image.fromarray(GREY > 99).save(path)
    with tifffile.TiffFile(path) as tif:
        photometric, last = (tif.pages[0].tags[name] for name in ('PhotometricInterpretation', 'PlanarConfiguration'))
    data = bytearray(path.read_bytes())
    data[photometric.valueoffset] = 3
    # Neither library writes this form: the last tag gives its place to the colour map, six 16-bit numbers at the end.
    data[last.offset:last.offset + 12] = struct.pack('<HHII', 320, 3, 6, len(data))
    data += struct.pack('<6H', *(257 * value for value in (10, 200, 20, 210, 30, 220)))
    path.write_bytes(data)
    np.testing.assert_array_equal(read_image(path), np.where(GREY > 99, 1, 0)[..., None] * 190 + [30, 20, 10])
    np.testing.assert_array_equal(read_label_map(path), GREY > 99)


def test_percentiles_that_do_not_rise_are_not_the_files_fault(tiff):
    for percentiles in ((99, 1), (-1, 99), (0, 101), (5, 5)):
        with pytest.raises(UserError, match='percentiles have to rise'):
            read_image(tiff(GREY), percentiles)


def test_two_and_three_channels_become_red_green_blue(tiff):
    first, second, third = GREY, GREY // 2, GREY // 3
    two, three = np.stack([first, second]), np.stack([first, second, third])
    none = np.zeros_like(GREY)
    for stack, expected in ((two, [none, second, first]), (three, [third, second, first])):
        expected = np.stack(expected, axis=-1)
        for path in (tiff(stack, photometric='minisblack', metadata={'axes': 'CYX'}),
                     tiff(stack, imagej=True, metadata={'axes': 'CYX'}),
                     tiff(stack, ome=True, photometric='minisblack', metadata={'axes': 'CYX'}),
                     tiff(stack, photometric='minisblack', planarconfig='separate', metadata=None),
                     tiff(np.moveaxis(stack, 0, -1), photometric='minisblack', planarconfig='contig', metadata=None)):
            np.testing.assert_array_equal(read_image(path), expected)


def test_alpha_is_told_from_channels_by_the_tags(tiff):
    contiguous = {'photometric': 'minisblack', 'planarconfig': 'contig'}
    grey_alpha = tiff(RGB[..., :2], extrasamples=['unassalpha'], **contiguous)
    np.testing.assert_array_equal(read_image(grey_alpha), repeated(RGB[..., 0]))
    three_and_alpha = tiff(RGBA, extrasamples=[0, 0, 'unassalpha'], **contiguous)
    np.testing.assert_array_equal(read_image(three_and_alpha), bgr(RGB))
    np.testing.assert_array_equal(read_image(tiff(RGBA, photometric='rgb')), bgr(RGB))
    with pytest.raises(CellDataError, match='has 4 channels; save one to three channels'):
        read_image(tiff(RGBA, **contiguous))


def test_rgb_may_name_its_samples_channels(tiff):
    np.testing.assert_array_equal(read_image(tiff(RGB, photometric='rgb', metadata={'axes': 'YXC'})), bgr(RGB))


def test_single_time_points_and_slices_are_squeezed(tiff):
    for path in (tiff(GREY[None, None], metadata={'axes': 'TZYX'}), tiff(GREY[None], imagej=True),
                 tiff(GREY[None, None, None], ome=True, metadata={'axes': 'TZCYX'})):
        np.testing.assert_array_equal(read_image(path), repeated(GREY))


@pytest.mark.parametrize(('axes', 'problem'), [('TYX', '5 time points'), ('ZYX', '5 slices'),
                                               (None, '5 pages of unstated'), ('HYX', '5 planes along H')])
def test_stacks_are_refused(tiff, axes, problem):
    path = tiff(np.stack([GREY] * 5), metadata={'axes': axes} if axes else None)
    for read in (read_image, read_label_map):
        with pytest.raises(CellDataError, match=f'is a stack of {problem}.*; save one plane') as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_stacks_of_imagej_and_ome_are_refused(tiff):
    stack = np.stack([GREY] * 5)
    for path, problem in ((tiff(stack, imagej=True, metadata={'axes': 'TYX'}), 'time'),
                          (tiff(stack, imagej=True, metadata={'axes': 'ZYX'}), 'slices'),
                          (tiff(stack, ome=True, photometric='minisblack', metadata={'axes': 'ZYX'}), 'slices'),
                          (tiff(np.stack([RGB] * 5), photometric='rgb', metadata={'axes': 'ZYXS'}), 'slices')):
        with pytest.raises(CellDataError, match=f'is a stack of 5 {problem}'):
            read_image(path)


@pytest.mark.parametrize('bigtiff', [False, True])
@pytest.mark.parametrize('subifds', [False, True])
@pytest.mark.parametrize('ome', [False, True])
def test_full_resolution_of_a_pyramid_wins(tmp_path, bigtiff, subifds, ome):
    path = tmp_path / 'pyramid.tif'
    options = {'photometric': 'rgb', 'tile': (32, 32), 'compression': 'zlib', 'metadata': {} if ome else None}
    with TiffWriter(path, bigtiff=bigtiff, ome=ome) as writer:
        writer.write(LARGE, subifds=2 if subifds else 0, **options)
        for step in (2, 4):
            writer.write(LARGE[::step, ::step], subfiletype=1, **options)
    np.testing.assert_array_equal(read_image(path), bgr(LARGE))


def test_largest_image_wins_wherever_it_stands(tmp_path):
    path = tmp_path / 'slide.tif'
    with TiffWriter(path) as writer:
        writer.write(RGB[:9, :9], photometric='rgb', metadata=None)
        writer.write(LARGE, photometric='rgb', metadata=None)
        writer.write(GREY, metadata=None)
    np.testing.assert_array_equal(read_image(path), bgr(LARGE))


def test_two_images_of_one_size_are_refused(tmp_path):
    path = tmp_path / 'two.tif'
    with TiffWriter(path) as writer:
        writer.write(RGB, photometric='rgb', metadata=None)
        writer.write(GREY, metadata=None)
    with pytest.raises(CellDataError, match='holds 2 images of the same size; save the one'):
        read_image(path)


def test_transparency_masks_are_no_images(tmp_path):
    path = tmp_path / 'masked.tif'
    with TiffWriter(path) as writer:
        writer.write(RGB, photometric='rgb', metadata=None)
        writer.write(GREY > 9, subfiletype=4, metadata=None)
    np.testing.assert_array_equal(read_image(path), bgr(RGB))


@pytest.mark.parametrize('dtype', ['uint16', 'int16', 'uint32', 'float16', 'float32', 'float64'])
def test_wide_types_scale_by_percentiles(tiff, dtype):
    values = (GREY * 40 if dtype != 'float16' else GREY).astype(dtype)
    low, high = np.percentile(values.astype(float), (0.1, 99.9))
    expected = np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255
    assert np.abs(read_image(tiff(values)) - repeated(expected)).max() <= 0.51
    spread = values.astype(float) - values.min()
    assert np.abs(read_image(tiff(values), (0, 100)) - repeated(spread / spread.max() * 255)).max() <= 0.51


def test_colours_scale_together_and_channels_apart(tiff):
    values = np.stack([GREY, GREY.astype(np.uint16) * 10, GREY.astype(np.uint16) * 100]).astype(np.uint16)
    together = read_image(tiff(np.moveaxis(values, 0, -1), photometric='rgb'), (0, 100))
    assert together[..., 2].max() < 5 < together[..., 0].max()
    apart = read_image(tiff(values, photometric='minisblack', metadata={'axes': 'CYX'}), (0, 100))
    assert apart.max(axis=(0, 1)).tolist() == [255, 255, 255]


def test_constant_and_sparse_images_scale(tiff):
    constant = np.full((5, 5), 1000, np.uint16)
    assert (read_image(tiff(constant)) == 0).all()
    sparse = np.zeros((100, 100), np.uint16)
    sparse[5, 5] = 40_000
    assert read_image(tiff(sparse))[5, 5].tolist() == [255, 255, 255]


def test_float_images_ignore_what_is_not_finite(tiff):
    values = np.linspace(0, 1, 101, dtype=np.float32).reshape(1, -1).repeat(3, axis=0)
    values[0, :3] = np.nan, np.inf, -np.inf
    image = read_image(tiff(values), (0, 100))[..., 0]
    assert image[0, :3].tolist() == [0, 255, 0]
    assert np.abs(image[1] - values[1] * 255).max() <= 0.51
    with pytest.raises(CellDataError, match='has no finite pixel'):
        read_image(tiff(np.full((3, 3), np.nan, np.float32)))


def test_floats_over_their_whole_range_do_not_overflow(tiff):
    image = read_image(tiff(np.array([[-1e308, 0, 1e308]])), (0, 100))
    assert image[0, :, 0].tolist() in ([0, 127, 255], [0, 128, 255])


def test_jpeg_in_ycbcr_is_decoded_to_its_colours(tmp_path, tiff):
    color = np.full((64, 64, 3), (200, 100, 50), np.uint8)
    by_pillow = tmp_path / 'pillow.tif'
    Image.fromarray(color).convert('YCbCr').save(by_pillow, compression='jpeg')
    for path in (by_pillow, tiff(color, photometric='rgb', compression='jpeg', tile=(32, 32))):
        with tifffile.TiffFile(path) as tif:
            assert tif.pages[0].photometric == tifffile.PHOTOMETRIC.YCBCR
        assert np.abs(read_image(path).astype(int) - bgr(color)).max() <= 3
    Image.fromarray(color).save(by_pillow, compression='jpeg')
    assert np.abs(read_image(by_pillow).astype(int) - bgr(color)).max() <= 3
    with pytest.raises(CellDataError, match=r'is a JPEG-compressed label map.*; save it as PNG'):
        read_label_map(tiff(GREY, compression='jpeg'))


@pytest.mark.parametrize('name', ['jpeg', 'jpeg2000', 'jpegxl', 'jpegxr', 'webp', 'lerc', 'aperio_jp2000_rgb'])
def test_compressions_that_may_be_lossy_are_for_images_but_not_for_label_maps(tiff, name):
    path = tiff(RGB if name == 'webp' else GREY, compression=name)
    assert read_image(path).shape == (37, 53, 3)
    with pytest.raises(CellDataError, match=f'is a {name.upper()}-compressed label map.*; save it as PNG'):
        read_label_map(path)


@pytest.mark.parametrize('compression', [None, 'lzw', 'deflate', 'zlib', 'packbits', 'lzma', 'zstd', 'png'])
def test_exact_compressions_are_for_label_maps_too(tiff, compression):
    np.testing.assert_array_equal(read_label_map(tiff(GREY, compression=compression)), GREY)


def test_label_maps_of_fax_compression_are_exact(tmp_path):
    for compression in ('group3', 'group4', 'tiff_ccitt'):
        path = tmp_path / f'{compression}.tif'
        Image.fromarray(GREY > 99).save(path, compression=compression)
        np.testing.assert_array_equal(read_label_map(path), GREY > 99)


@pytest.mark.parametrize(('photometric', 'array'), [('separated', RGBA), ('cielab', RGB), ('ycbcr', RGB)])
def test_other_colour_models_are_refused(tiff, photometric, array):
    with pytest.raises(CellDataError, match='; save it as RGB'):
        read_image(tiff(array, photometric=photometric))


def test_complex_pixels_are_refused(tiff):
    with pytest.raises(CellDataError, match='has the pixel type complex64; save it as integers or floats'):
        read_image(tiff(GREY.astype(np.complex64)))


@pytest.mark.filterwarnings('ignore:.*zero-size')
def test_an_image_of_no_pixels_is_refused(tiff):
    for read in (read_image, read_label_map):
        with pytest.raises(CellDataError, match='holds no image of at least one pixel'):
            read(tiff(np.zeros((0, 5), np.uint8)))


def test_a_claim_beyond_the_file_is_refused_before_memory_is_taken(tmp_path):
    for options in ({}, {'compression': 'lzw'}, {'compression': 'zstd', 'tile': (16, 16)}, {'compression': 'zlib'}):
        file = io.BytesIO()
        tifffile.imwrite(file, GREY[:9, :9], metadata=None, **options)
        file.seek(0)
        with tifffile.TiffFile(file) as tif:
            tags = [tif.pages[0].tags[name] for name in ('ImageWidth', 'ImageLength', 'RowsPerStrip')
                    if name in tif.pages[0].tags]
        data = bytearray(file.getvalue())
        for tag in tags:
            # Type 4 is a 32-bit integer.
            data[tag.offset + 2:tag.offset + 12] = b''.join(n.to_bytes(k, 'little') for n, k in
                                                            ((4, 2), (1, 4), (100_000, 4)))
        path = tmp_path / 'claim.tif'
        path.write_bytes(data)
        tracemalloc.start()
        for read in (read_image, read_label_map):
            with pytest.raises(CellDataError):
                read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
        tracemalloc.stop()


def patched(data, name, value):
    """The file with the first value of one tag of its first page replaced, type and count kept."""
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        tag = tif.pages[0].tags[name]
        size = {3: 2, 4: 4, 16: 8}[tag.dtype]
    return data[:tag.valueoffset] + value.to_bytes(size, 'little') + data[tag.valueoffset + size:]


LZW = file_of(RGB, photometric='rgb', compression='lzw', rowsperstrip=4, metadata=None)


@pytest.mark.parametrize(('data', 'problem'), [
    (patched(LZW, 'ImageLength', 0), 'holds no image of at least one pixel'),
    (patched(LZW, 'ImageWidth', 0), 'holds no image of at least one pixel'),
    (patched(LZW, 'ImageLength', 41), 'lacks some of its strips or tiles'),
    (patched(LZW, 'StripOffsets', 0), 'lacks some of its strips or tiles'),
    (patched(LZW, 'StripByteCounts', 0), 'lacks some of its strips or tiles'),
    (LZW[:-1], 'ends before its pixels do'),
    (file_of(GREY)[:-1], 'ends before its pixels do'),
    (file_of(np.stack([GREY] * 2), ome=True, photometric='minisblack', metadata={'axes': 'CYX'})
     .replace(b'SizeC="2"', b'SizeC="3"'), 'lacks planes, or keeps them in other files')])
def test_what_is_missing_is_named(tmp_path, data, problem):
    path = tmp_path / 'part.tif'
    path.write_bytes(data)
    with pytest.raises(CellDataError, match=problem):
        read_image(path)


def test_imagej_planes_without_a_page_of_their_own_are_not_forgotten(tmp_path):
    data = file_of(np.stack([GREY, GREY]), imagej=True, metadata={'axes': 'CYX'})
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        first = tif.pages[0]
        after, end = first.offset + 2 + 12 * len(first.tags), first.dataoffsets[0] + first.nbytes
    path = tmp_path / 'hyperstack.tif'
    path.write_bytes(data[:after] + bytes(4) + data[after + 4:])
    assert read_image(path)[..., 1].tolist() == GREY.tolist()
    path.write_bytes(path.read_bytes()[:end + 9])
    with pytest.raises(CellDataError, match='lacks some of its images'):
        read_image(path)


def _samples():
    pyramid = io.BytesIO()
    with TiffWriter(pyramid) as writer:
        writer.write(RGB, subifds=1, photometric='rgb')
        writer.write(RGB[::2, ::2], subfiletype=1, photometric='rgb')
    two = np.stack([GREY, 255 - GREY])
    return {
        'course': file_of(RGBA, photometric='rgb', compression='lzw', predictor=2, rowsperstrip=4, metadata=None),
        'labels': file_of(GREY.astype(np.float64), rowsperstrip=2),
        'tiles': file_of(RGB, photometric='rgb', compression='zstd', tile=(16, 16), bigtiff=True, byteorder='>'),
        'jpeg': file_of(RGB, photometric='rgb', compression='jpeg', tile=(16, 16)),
        'palette': file_of(GREY, photometric='palette', colormap=np.zeros((3, 256), np.uint16), compression='packbits'),
        'imagej': file_of(two, imagej=True, metadata={'axes': 'CYX'}),
        'ome': file_of(two, ome=True, photometric='minisblack', metadata={'axes': 'CYX'}),
        'pages': file_of(two, photometric='minisblack', metadata={'axes': 'CYX'}, compression='zlib'),
        'pyramid': pyramid.getvalue(),
    }


SAMPLES = _samples()


@pytest.mark.parametrize('name', SAMPLES)
def test_a_truncated_file_never_reads_as_something_else(tmp_path, name, capfd):
    path = tmp_path / 'cut.tif'
    path.write_bytes(SAMPLES[name])
    # What may be missing is padding, or the reduced levels of the pyramid.
    assert_never_half_read(path)
    assert capfd.readouterr() == ('', '')


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(sorted(SAMPLES)), seed=st.integers(0, 2**32 - 1), head=st.booleans())
def test_damaged_bytes_end_in_an_image_or_a_data_error(tmp_path_factory, name, seed, head):
    rng = np.random.default_rng(seed)
    data = np.frombuffer(SAMPLES[name], np.uint8).copy()
    where = rng.integers(0, 400 if head else len(data), 6)
    data[where] = rng.integers(0, 256, 6)
    path = tmp_path_factory.getbasetemp() / 'damaged.tif'
    path.write_bytes(data.tobytes())
    for read in (read_image, read_label_map, read_pixel_size):
        with contextlib.suppress(CellDataError):
            read(path)


def test_tifffile_keeps_quiet():
    assert not logging.getLogger('tifffile').isEnabledFor(logging.ERROR)


@pytest.mark.parametrize(('micrometres', 'kwargs'), [
    (0.25, {'ome': True, 'metadata': {'PhysicalSizeX': 0.25, 'PhysicalSizeXUnit': 'µm'}}),
    (0.25, {'ome': True, 'metadata': {'PhysicalSizeX': 250, 'PhysicalSizeXUnit': 'nm'}}),
    (0.5, {'ome': True, 'metadata': {'PhysicalSizeX': 0.5}}),
    (None, {'ome': True, 'metadata': {'PhysicalSizeX': 3, 'PhysicalSizeXUnit': 'pixel'}}),
    (None, {'ome': True}),
    (0.5, {'imagej': True, 'resolution': (2, 2), 'metadata': {'unit': 'um'}}),
    (0.5, {'imagej': True, 'resolution': (2, 2), 'metadata': {'unit': 'micron'}}),
    (0.5, {'imagej': True, 'resolution': (2, 2), 'metadata': {'unit': '\\u00B5m'}}),
    (0.4, {'imagej': True, 'resolution': (2500, 2500), 'metadata': {'unit': 'mm'}}),
    (None, {'imagej': True, 'resolution': (2, 2), 'metadata': {'unit': 'pixel'}}),
    (None, {'imagej': True, 'resolution': (72, 72), 'metadata': {'unit': 'inch'}}),
    (None, {'imagej': True}),
    (0.499, {'metadata': None, 'description': 'Aperio Image Library v12\n46x33 |AppMag = 20|MPP = 0.4990|Left = 1'}),
    (0.25, {'resolution': (40000, 40000), 'resolutionunit': 'CENTIMETER'}),
    (None, {'resolution': (28.35, 28.35), 'resolutionunit': 'CENTIMETER'}),
    (None, {'resolution': (0, 0), 'resolutionunit': 'CENTIMETER'}),
    (None, {'resolution': (300, 300), 'resolutionunit': 'INCH'}),
    (None, {'resolution': (40000, 40000), 'resolutionunit': 'NONE'}),
    (None, {}),
])
def test_pixel_size_comes_from_the_microscope_or_not_at_all(tiff, micrometres, kwargs):
    found = read_pixel_size(tiff(RGB, photometric='rgb', **kwargs))
    assert found == (micrometres and pytest.approx(micrometres))


def test_pixel_size_is_that_of_the_image_that_is_read(tmp_path):
    path = tmp_path / 'slide.ome.tif'
    with TiffWriter(path, ome=True) as writer:
        writer.write(RGB, photometric='rgb', metadata={'PhysicalSizeX': 5.0})
        writer.write(LARGE, photometric='rgb', metadata={'PhysicalSizeX': 0.25})
    assert read_pixel_size(path) == 0.25
