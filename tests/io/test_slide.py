import subprocess
import sys

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from slide_checks import assert_windows_equal, random_windows

from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.io import slide
from cellseg_mm.io.image import read_image
from cellseg_mm.io.slide import ArrayImage, open_slide

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (90, 130, 3), np.uint8)
GREY = RGB[..., 0]


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.bmp', '.tif'])
@pytest.mark.parametrize('mode', ['RGB', 'L', '1', 'P'])
def test_windows_of_pictures_are_those_of_the_whole(tmp_path, suffix, mode):
    if suffix == '.jpg' and mode in '1P':
        pytest.skip('JPEG has no such files')
    path = tmp_path / f'image{suffix}'
    Image.fromarray(RGB).convert(mode).save(path)
    assert_windows_equal(path, read_image(path))
    with open_slide(path) as opened:
        assert opened.mpp is None
        expected = cv2.resize(read_image(path), (65, 45), interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(opened.overview(65) - expected).max() <= 1


def test_deep_pngs_are_scaled_by_all_of_the_image(tmp_path):
    path = tmp_path / 'deep.png'
    for array in (GREY.astype(np.uint16) * 90, np.dstack([RGB, GREY]).astype(np.uint16) * 90):
        path.write_bytes(imagecodecs.png_encode(array))
        assert_windows_equal(path, read_image(path))
    with open_slide(path, (10, 60)) as opened:
        np.testing.assert_array_equal(opened.read(9, 9, 30, 20), read_image(path, (10, 60))[9:29, 9:39])
    with pytest.raises(UserError, match='percentiles have to rise'):
        open_slide(path, (60, 10))


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.bmp'])
def test_pictures_too_large_to_hold_are_refused_before_they_are_decoded(tmp_path, monkeypatch, suffix):
    path = tmp_path / f'image{suffix}'
    Image.fromarray(RGB).save(path)
    monkeypatch.setattr(slide, '_MOST_HELD', RGB.nbytes)
    assert_windows_equal(path, read_image(path), count=1)
    monkeypatch.setattr(slide, '_MOST_HELD', RGB.nbytes - 1)
    with pytest.raises(CellDataError, match='is 130 x 90 pixels in a form that cannot be read by parts; save it'):
        open_slide(path)


def test_pixels_of_one_bit_are_bytes_when_they_are_held(tmp_path, monkeypatch):
    path = tmp_path / 'bilevel.png'
    Image.fromarray(GREY > 99).save(path)
    monkeypatch.setattr(slide, '_MOST_HELD', GREY.size - 1)
    with pytest.raises(CellDataError, match='in a form that cannot be read by parts'):
        open_slide(path)


def test_arrays_are_read_as_files_are():
    bgr = RGB[..., ::-1]
    image = ArrayImage(bgr, 0.25)
    assert (image.path, image.height, image.width, image.mpp) == (None, 90, 130, 0.25)
    for x, y, width, height in random_windows(90, 130, 0, 9):
        np.testing.assert_array_equal(image.read(x, y, width, height), bgr[y:y + height, x:x + width])
    with image:
        window = image.read(0, 0, 130, 90)
        window[...] = 0
        np.testing.assert_array_equal(image.overview(130), bgr)
    assert bgr.any()


@pytest.mark.parametrize('array', [GREY, RGB.astype(float), np.dstack([RGB, GREY]), RGB[:0]])
def test_arrays_that_are_no_bgr_image_are_refused(array):
    with pytest.raises(UserError, match=r'an image is a uint8 array \(H, W, 3\) of BGR, not '):
        ArrayImage(array)


@pytest.mark.parametrize('window', [(-1, 0, 5, 5), (0, -1, 5, 5), (126, 0, 5, 5), (0, 86, 5, 5),
                                    (0, 0, 0, 5), (0, 0, 5, 0)])
def test_windows_have_to_lie_inside(window):
    with pytest.raises(ValueError, match='is not inside 130 x 90 pixels'):
        ArrayImage(RGB).read(*window)


def test_what_is_no_image_is_refused(tmp_path):
    with pytest.raises(CellDataError, match=r'none\.svs: does not exist; check the name and the folder'):
        open_slide(tmp_path / 'none.svs')
    with pytest.raises(CellDataError, match='does not exist'):
        open_slide(tmp_path / 'none.zarr')
    with pytest.raises(CellDataError, match='is a folder, and no Zarr image; name an image file'):
        open_slide(tmp_path)
    (tmp_path / 'empty.svs').touch()
    with pytest.raises(CellDataError, match='is an empty file; copy or export it again'):
        open_slide(tmp_path / 'empty.svs')


def test_files_are_closed_in_the_end_and_after_errors(tmp_path):
    path = tmp_path / 'image.tif'
    code = ('import gc, os, sys, warnings; from cellseg_mm.io.slide import open_slide\n'
            'warnings.simplefilter("error")\n'
            'count = lambda: len(os.listdir("/proc/self/fd"))\n'
            'before = count()\n'
            'try:\n    with open_slide(sys.argv[1]) as slide: slide.read(0, 0, 9, 9); assert count() > before\n'
            'except Exception as error: print(type(error).__name__)\n'
            'assert count() == before')
    for array, expected in ((RGB, ''), (np.stack([GREY] * 5), 'CellDataError\n')):
        tifffile.imwrite(path, array, photometric='rgb' if array is RGB else 'minisblack', compression='zlib')
        done = subprocess.run([sys.executable, '-c', code, path], capture_output=True, text=True, check=True)
        assert done.stdout == expected


def test_opening_slides_needs_neither_torch_nor_zarr_nor_openslide():
    code = 'import sys, cellseg_mm.io.slide; print({"torch", "mmcv", "mmdet", "zarr", "openslide"} & set(sys.modules))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout == 'set()\n'
