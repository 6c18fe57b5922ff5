import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from truncation import assert_never_half_read

from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.io.image import read_image, read_label_map, read_pixel_size, write_image

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (37, 53), np.uint8)
RGB = RNG.integers(0, 256, (37, 53, 3), np.uint8)
REAL = os.environ.get('CELLSEG_REAL_DATA')
real = pytest.mark.skipif(not REAL, reason='CELLSEG_REAL_DATA is not set: no real images to read')


@pytest.fixture
def save(tmp_path):
    """Save an array with Pillow, return the path."""
    def write(array, suffix='.png', mode=None, **kwargs):
        path = tmp_path / f'{len(list(tmp_path.iterdir()))}{suffix}'
        image = Image.fromarray(array)
        (image.convert(mode) if mode else image).save(path, **kwargs)
        return path
    return write


@pytest.mark.parametrize('suffix', ['.png', '.bmp', '.tif'])
def test_lossless_formats_read_back_exactly(save, suffix):
    np.testing.assert_array_equal(read_image(save(RGB, suffix)), RGB[..., ::-1])
    np.testing.assert_array_equal(read_image(save(GREY, suffix)), np.repeat(GREY[..., None], 3, axis=-1))


def test_jpeg_is_read_as_opencv_reads_it(save):
    smooth = cv2.GaussianBlur(RGB, (0, 0), 5)
    for array in (smooth, smooth[..., 0]):
        path = save(array, '.jpg', quality=95)
        assert np.abs(read_image(path).astype(int) - cv2.imread(str(path))).max() <= 2


def test_jpegs_in_cmyk_become_rgb(save):
    path = save(np.full((16, 16, 3), (200, 100, 50), np.uint8), '.jpg', mode='CMYK')
    assert np.abs(read_image(path).astype(int) - (50, 100, 200)).max() <= 3


def test_the_format_is_known_by_content_not_by_name(save, tmp_path):
    renamed = tmp_path / 'image.tif'
    renamed.write_bytes(save(RGB, '.png').read_bytes())
    np.testing.assert_array_equal(read_image(renamed), RGB[..., ::-1])


def test_png_drops_alpha_and_expands_palettes(save):
    rgba = np.dstack([RGB, GREY])
    np.testing.assert_array_equal(read_image(save(rgba)), RGB[..., ::-1])
    grey_alpha = save(np.dstack([GREY, GREY]), mode=None)
    np.testing.assert_array_equal(read_image(grey_alpha)[..., 0], GREY)
    path = save(RGB, mode='P')
    np.testing.assert_array_equal(read_image(path), cv2.imread(str(path)))


def test_png_of_16_bits_keeps_the_lower_byte(tmp_path):
    path = tmp_path / 'deep.png'
    for array in (GREY.astype(np.uint16) + 1000, RGB.astype(np.uint16) + 1000):
        path.write_bytes(imagecodecs.png_encode(array))
        expected = array - array.min()
        expected = np.rint(expected / expected.max() * 255)
        image = read_image(path, (0, 100))
        np.testing.assert_array_equal(image, np.dstack([expected] * 3) if array.ndim == 2 else expected[..., ::-1])


@pytest.mark.parametrize('bits', [1, 2, 4, 8])
def test_png_labels_of_few_bits_and_of_palettes_keep_their_ids(tmp_path, bits):
    labels = GREY % np.uint8(min(2**bits - 1, 200))
    labels[0, 0] = 1
    palette = Image.fromarray(labels, 'P')
    palette.putpalette(RNG.integers(0, 256, 3 * 2**bits, np.uint8).tolist())
    path = tmp_path / 'palette.png'
    palette.save(path, bits=bits)
    np.testing.assert_array_equal(read_label_map(path, (37, 53)), labels)
    grey = tmp_path / 'grey.png'
    # The same stored bits, called grey: colour type 0 and no palette.
    grey.write_bytes(as_grey_png(path.read_bytes()))
    np.testing.assert_array_equal(read_label_map(grey), labels)
    assert read_image(grey).max() == labels.max() * (255 // (2**bits - 1))


def as_grey_png(data):
    out, at = data[:8], 8
    while at < len(data):
        length = struct.unpack('>I', data[at:at + 4])[0]
        kind, body = data[at + 4:at + 8], data[at + 8:at + 8 + length]
        if kind == b'IHDR':
            body = body[:9] + b'\0' + body[10:]
        if kind != b'PLTE':
            out += struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
        at += 12 + length
    return out


def test_png_labels_of_16_bits_keep_ids_above_255(save):
    labels = RNG.integers(0, 65536, (37, 53), np.uint16)
    read = read_label_map(save(labels))
    assert read.dtype == np.int64
    np.testing.assert_array_equal(read, labels)


def test_colour_and_lossy_label_maps_are_refused(save):
    with pytest.raises(CellDataError, match='is a label map of 3 channels; save one channel'):
        read_label_map(save(RGB))
    with pytest.raises(CellDataError, match='is a JPEG-compressed label map'):
        read_label_map(save(GREY, '.jpg'))


def labels_file(tmp_path, values):
    path = tmp_path / 'labels.tif'
    tifffile.imwrite(path, values)
    return path


@pytest.mark.parametrize(('value', 'dtype', 'problem'), [
    (np.nan, 'float64', 'NaN or infinite'), (np.inf, 'float32', 'NaN or infinite'),
    (-np.inf, 'float64', 'NaN or infinite'), (-3, 'int64', 'the negative label -3'),
    (1.5, 'float64', 'the fractional label 1.5'), (0.25, 'float32', 'the fractional label 0.25'),
    (-1, 'float64', 'the negative label -1'), (-3, 'int16', 'the negative label -3'),
    (2.0**53 + 2, 'float64', 'the label 9007199254740994, beyond what float64'),
    (2.0**24 + 2, 'float32', 'the label 16777218, beyond what float32'), (1e300, 'float64', 'beyond what float64'),
    (2**63, 'uint64', 'the label 9223372036854775808, beyond what int64')])
def test_labels_that_are_no_instance_numbers_are_refused(tmp_path, value, dtype, problem):
    values = np.zeros((5, 7), dtype)
    values[2, 3] = value
    path = labels_file(tmp_path, values)
    with pytest.raises(CellDataError, match=f'{problem}.*; use 0 for background and whole numbers') as caught:
        read_label_map(path)
    assert str(caught.value).startswith(f'{path}: has ')


def test_a_label_map_of_another_size_names_both_sizes(tmp_path):
    path = labels_file(tmp_path, np.zeros((5, 7), np.uint8))
    assert read_label_map(path, (5, 7)).shape == (5, 7)
    with pytest.raises(CellDataError, match=r'is 5 x 7 \(height x width\) but its image is 7 x 5; save both'):
        read_label_map(path, (7, 5))


@pytest.mark.parametrize('read', [read_image, read_label_map, read_pixel_size])
@pytest.mark.parametrize(('content', 'problem'), [
    (None, 'does not exist; check the name'), (b'', 'is an empty file'),
    (b'not an image', 'is no TIFF, PNG, JPEG or BMP'), (b'GIF89a' + bytes(50), 'is no TIFF, PNG, JPEG or BMP')])
def test_what_is_no_image_is_refused(tmp_path, read, content, problem):
    path = tmp_path / 'image.tif'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CellDataError, match=problem) as caught:
        read(path)
    assert str(caught.value).startswith(f'{path}: ')
    with pytest.raises(CellDataError, match='is a folder; name an image file'):
        read(tmp_path)


@pytest.mark.parametrize('content', [b'II*\0', b'II*\0\x08\0\0\0', b'MM\0+\0\x08\0\0', b'\x89PNG\r\n\x1a\n',
                                     b'\xff\xd8\xff\xe0', b'BM', b'BM' + bytes(60)])
def test_headers_without_an_image_are_refused(tmp_path, content):
    path = tmp_path / 'image'
    path.write_bytes(content)
    for read in (read_image, read_label_map):
        with pytest.raises(CellDataError):
            read(path)


@pytest.mark.parametrize(('suffix', 'options'), [('.png', {}), ('.bmp', {}), ('.jpg', {}),
                                                 ('.jpg', {'progressive': True})])
def test_truncated_files_never_read_as_half_an_image(save, suffix, options):
    assert_never_half_read(save(RGB, suffix, **options))


def test_a_png_that_claims_more_than_it_has_is_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / 'claim.png'
    data = imagecodecs.png_encode(RGB)
    header = b'IHDR' + struct.pack('>II', 100_000, 100_000) + data[24:29]
    path.write_bytes(data[:12] + header + struct.pack('>I', zlib.crc32(header)) + data[33:])
    with pytest.raises(CellDataError, match='claims 100000 x 100000 pixels, more than its bytes can hold'):
        read_image(path)


def test_large_pngs_are_no_bombs(save, monkeypatch):
    path = save(RGB)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', RGB.size // 10)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    np.testing.assert_array_equal(read_image(path), RGB[..., ::-1])


def test_animations_are_refused(tmp_path):
    path = tmp_path / 'moving.png'
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(CellDataError, match='is an animation of 2 frames; save one frame'):
        read_image(path)


def test_orientation_tags_do_not_turn_the_image_away_from_its_labels(save):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(RGB, '.jpg', exif=exif)
    assert read_image(path).shape == (37, 53, 3)


def test_pixel_size_of_other_formats_is_unknown(save):
    assert read_pixel_size(save(RGB, dpi=(300, 300))) is None


def test_written_images_read_back(tmp_path):
    path = tmp_path / 'new' / 'image.png'
    write_image(path, RGB[..., ::-1])
    np.testing.assert_array_equal(read_image(path), RGB[..., ::-1])
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(('name', 'shape', 'problem'), [
    ('image.jpg', (5, 5, 3), 'let the name end in .png'), ('image', (5, 5, 3), 'let the name end in .png'),
    ('image.png', (1, 1_000_001, 3), 'PNG cannot hold 1 x 1000001 pixels')])
def test_what_cannot_be_written_is_refused_before_anything_is_written(tmp_path, name, shape, problem):
    with pytest.raises(UserError, match=problem):
        write_image(tmp_path / name, np.zeros(shape, np.uint8))
    assert not list(tmp_path.iterdir())


def test_reading_images_needs_neither_torch_nor_mmdetection():
    code = 'import sys, cellseg_mm.io.image; print({"torch", "mmcv", "mmdet", "mmengine"} & set(sys.modules))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout == 'set()\n'


@real
def test_the_real_sample_reads_as_pillow_reads_it():
    sample = Path(REAL) / 'hw3' / 'sample'
    image = read_image(sample / 'image.tif')
    np.testing.assert_array_equal(image, np.asarray(Image.open(sample / 'image.tif'))[..., 2::-1])
    assert image.shape[:2] == (397, 482)
    assert read_pixel_size(sample / 'image.tif') is None
    for name, cells in (('class1', 2), ('class2', 159)):
        labels = read_label_map(sample / f'{name}.tif', image.shape[:2])
        assert len(np.unique(labels)) - 1 == cells
        np.testing.assert_array_equal(labels, tifffile.imread(sample / f'{name}.tif'))


@real
def test_the_real_sample_reads_not_much_slower_than_tifffile_decodes_it():
    path = Path(REAL) / 'hw3' / 'sample' / 'image.tif'
    seconds = {read_image: [], tifffile.imread: []}
    for _ in range(10):
        for read, times in seconds.items():
            start = time.perf_counter()
            read(path)
            times.append(time.perf_counter() - start)
    assert min(seconds[read_image]) < 3 * min(seconds[tifffile.imread])


@real
def test_real_pngs_and_their_labels_read_as_opencv_reads_them():
    for path in sorted((Path(REAL) / 'dsb2018' / 'images').iterdir())[:10]:
        np.testing.assert_array_equal(read_image(path), cv2.imread(str(path)))
        labels = path.parents[1] / 'labels' / path.name
        np.testing.assert_array_equal(read_label_map(labels), cv2.imread(str(labels), cv2.IMREAD_UNCHANGED))
