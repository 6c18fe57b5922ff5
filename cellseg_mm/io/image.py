"""The one place where image files become uint8 (H, W, 3) BGR arrays, and label maps int64 (H, W).

The format is known by a file's first bytes, never by its name: TIFF, PNG, JPEG or BMP. Orientation tags are ignored, so
that an image and its label map stay on the stored pixel grid; embedded colour profiles are not applied.
"""
import math
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.io import tiff
from cellseg_mm.io.files import atomic_path
from cellseg_mm.io.raster import PERCENTILES, Raster, check_finite, check_percentiles, spans, to_bgr
from cellseg_mm.io.reading import AGAIN, check_size, reading

# These classes directly: Image.open would refuse large slides as 'decompression bombs' by their size alone.
_PILLOW = {b'\x89PNG\r\n\x1a\n': PngImageFile, b'\xff\xd8\xff': JpegImageFile, b'BM': BmpImageFile}
# The most pixel bytes that one stored byte can stand for: deflate's limit is 1032, and JPEG stays below it.
_MAX_EXPANSION = 2000


def read_image(path, percentiles=PERCENTILES):
    """Read an image file as MMDetection wants it.

    - Alpha is dropped, associated alpha too: a half-transparent pixel comes out as composed over black.
    - Grey is repeated, palettes are expanded, white-is-zero is inverted, fewer than 8 bits are widened to 0 to 255.
    - Two or three fluorescence channels become red, green and (black where absent) blue, in the file's order; four or
      more are refused, since which of them to show is not ours to choose.
    - 8-bit samples stay as they are. Wider integers and floats are scaled so that the two percentiles become 0 and 255,
      over all colours at once for RGB (hues stay), by channel for fluorescence. Where both percentiles coincide, the
      extremes are taken; a constant image becomes 0. NaN becomes 0; neither it nor infinity counts.
    - Of several images or pyramid levels in a file, the one with the most pixels is read.

    Args:
        path (str | Path): A TIFF, PNG, JPEG or BMP file.
        percentiles (tuple[float, float]): Lower and upper percentile, 0 to 100, that become 0 and 255.

    Returns:
        np.ndarray: uint8 (H, W, 3), BGR.

    Raises:
        CellDataError: If the file cannot be read as one image; says why and what to do.
        UserError: If the percentiles do not rise within 0 to 100.
    """
    check_percentiles(percentiles)
    with reading(path):
        raster = read_raster(path)
        shown = spans(raster, percentiles)
        check_finite(path, shown)
        return to_bgr(raster, shown)


def read_annotated_image(path, shape):
    """`read_image` for an image with annotations.

    Args:
        path (str | Path): The file.
        shape (tuple[int, int]): Height and width that the annotations give.

    Returns:
        np.ndarray: uint8 (height, width, 3), BGR.

    Raises:
        CellDataError: If it cannot be read, or is of another size.
    """
    image = read_image(path)
    height, width = image.shape[:2]
    if (height, width) != tuple(shape):
        raise CellDataError(path, f'is {width} x {height} pixels, its annotations are for {shape[1]} x {shape[0]}',
                            'run tools/prepare_data.py again')
    return image


def read_label_map(path, shape=None):
    """Read a label map: 0 is background, every other number one instance.

    Any integer or bool type, and floats that hold whole numbers; indices of palette files are the ids.

    Args:
        path (str | Path): A TIFF, PNG or BMP file of one channel.
        shape (tuple[int, int] | None): Height and width it must have, those of its image.

    Returns:
        np.ndarray: int64 (H, W).

    Raises:
        CellDataError: If it is of another size, in colour, in a compression that may be lossy, or has negative,
            fractional, non-finite or inexact ids.
    """
    with reading(path):
        raster = read_raster(path)
        if raster.lossy:
            raise CellDataError(path, f'is a {raster.lossy}-compressed label map, whose ids may be inexact',
                                'save it as PNG, or as TIFF without compression or with LZW or Deflate')
        if raster.kind not in ('grey', 'palette'):
            raise CellDataError(path, f'is a label map of {raster.values.shape[-1]} channels',
                                'save one channel that holds the number of each instance, not a colour')
        values = raster.values[..., 0]
        if shape is not None and values.shape != tuple(shape):
            raise CellDataError(path, f'is {values.shape[0]} x {values.shape[1]} (height x width) but its image is '
                                f'{shape[0]} x {shape[1]}', 'save both in the same size')
        return _to_labels(path, values)


def read_pixel_size(path):
    """Micrometres for each pixel as the file tells it; see `tiff.read_pixel_size`.

    Args:
        path (str | Path): A TIFF, PNG, JPEG or BMP file.

    Returns:
        float | None: None where the file does not tell; only TIFF files can.

    Raises:
        CellDataError: If the file cannot be read.
    """
    with reading(path):
        return tiff.read_pixel_size(path) if _known_magic(path) in tiff.MAGICS else None


def write_image(path, bgr):
    """Write a PNG file, whole or not at all.

    Args:
        path (str | Path): Where to; the suffix is '.png'.
        bgr (np.ndarray): uint8 (H, W, 3), BGR.

    Raises:
        UserError: If the suffix is another, or PNG cannot hold the image.
    """
    if Path(path).suffix != '.png':
        raise UserError(f'{path}: images are written as PNG; let the name end in .png')
    done, encoded = cv2.imencode('.png', np.ascontiguousarray(bgr))
    if not done:
        raise UserError(f'{path}: PNG cannot hold {bgr.shape[0]} x {bgr.shape[1]} pixels; choose a smaller part')
    with atomic_path(path) as partial:
        partial.write_bytes(encoded.tobytes())


def file_magic(path):
    """The first bytes of a TIFF, PNG, JPEG or BMP file by which it is known; None of other files.

    Raises:
        CellDataError: If the file is empty.
    """
    with Path(path).open('rb') as file:
        start = file.read(8)
    if not start:
        raise CellDataError(path, 'is an empty file', AGAIN)
    return next((magic for magic in (*tiff.MAGICS, *_PILLOW) if start.startswith(magic)), None)


def read_raster(path, most=math.inf):
    """Read an image file as it is stored.

    Args:
        path (str | Path): A TIFF, PNG, JPEG or BMP file.
        most (float): How many bytes its samples may take.

    Returns:
        Raster: The stored samples and what they mean.

    Raises:
        CellDataError: If the file is none of them, has more than one image, or needs more bytes; other errors are the
            decoder's.
    """
    magic = _known_magic(path)
    return tiff.read(path, most) if magic in tiff.MAGICS else _read_with_pillow(path, _PILLOW[magic], most)


def _known_magic(path):
    magic = file_magic(path)
    if magic is None:
        raise CellDataError(path, 'is no TIFF, PNG, JPEG or BMP file', 'save the image in one of these formats')
    return magic


def _read_with_pillow(path, opener, most):
    with Path(path).open('rb') as file:
        # The header of a PNG file has its bits a sample and its colour type at bytes 24 and 25.
        depth, color = file.read(26)[24:] if opener is PngImageFile else (8, 0)
        file.seek(0)
        image = opener(file)
        samples = image.width * image.height * len(image.getbands())
        bits = samples * (1 if image.mode == '1' else depth)
        if bits > 8 * _MAX_EXPANSION * Path(path).stat().st_size:
            size = f'{image.height} x {image.width}'
            raise CellDataError(path, f'claims {size} pixels, more than its bytes can hold', AGAIN)
        # In memory, a sample takes a byte at least.
        check_size(path, image.height, image.width, samples * max(depth // 8, 1), most)
        if getattr(image, 'n_frames', 1) > 1:
            raise CellDataError(path, f'is an animation of {image.n_frames} frames', 'save one frame by itself')
        if depth == 16 and color != 0:
            # Pillow would drop the lower byte.
            file.seek(0)
            values = imagecodecs.png_decode(file.read())
        else:
            image.load()
            if image.mode == 'CMYK':
                image = image.convert('RGB')
            values = np.asarray(image)
        palette = image.getpalette('RGB') if image.mode in ('P', 'PA') else None
    values = values.reshape(image.height, image.width, -1)
    if depth in (2, 4) and color == 0 and image.mode == 'L':
        # Pillow widens them to 8 bits; label maps need what is stored.
        values = values // (255 // (2**depth - 1))
    if palette is not None:
        palette = np.array(palette + [0] * (768 - len(palette)), np.uint8).reshape(-1, 3)
        return Raster(values[..., :1], 'palette', 8, palette)
    rgb = values.shape[-1] >= 3
    return Raster(values[..., :3 if rgb else 1], 'rgb' if rgb else 'grey', 8 * values.itemsize if depth > 4 else depth,
                  lossy='JPEG' if opener is JpegImageFile else '')


def _to_labels(path, values):
    remedy = 'use 0 for background and whole numbers from 1 for the cells'
    low, high = values.min(), values.max()
    if values.dtype.kind == 'f':
        exact = 2.0 ** (np.finfo(values.dtype).nmant + 1)
        if not np.isfinite(low) or not np.isfinite(high):
            raise CellDataError(path, 'has labels that are NaN or infinite', remedy)
        if high > exact:
            raise CellDataError(path, f'has the label {high:.17g}, beyond what {values.dtype} holds exactly', remedy)
    if low < 0:
        raise CellDataError(path, f'has the negative label {low}', remedy)
    if high > np.iinfo(np.int64).max:
        raise CellDataError(path, f'has the label {high}, beyond what int64 holds', remedy)
    labels = values.astype(np.int64)
    if values.dtype.kind == 'f' and not np.array_equal(labels, values):
        raise CellDataError(path, f'has the fractional label {values[labels != values][0]}', remedy)
    return labels
