"""TIFF files as their own tags describe them: which image of the file, which axes, which samples are colour.

What an axis means is read from the file (tifffile's series axes, the photometric and extra-sample tags) and never
guessed from a size. A header is believed only as far as the file has bytes to back it.
"""
import html
import logging
import math
import re
from typing import NamedTuple

import numpy as np
import tifffile
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC

from cellseg_mm.errors import CellDataError
from cellseg_mm.io.pixel_size import MICROMETRES, plausible
from cellseg_mm.io.raster import Raster
from cellseg_mm.io.reading import AGAIN, check_size, reading

# tifffile logs what it finds wrong; everything that matters is raised here instead.
logging.getLogger('tifffile').setLevel(logging.CRITICAL)

MAGICS = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')

# The most pixel bytes that one stored byte can stand for: deflate's limit is 1032, LZW's 1310, zstd's 32768.
_MAX_EXPANSION = {COMPRESSION.NONE: 1, COMPRESSION.LZW: 2000, COMPRESSION.DEFLATE: 2000,
                  COMPRESSION.ADOBE_DEFLATE: 2000, COMPRESSION.JPEG: 2000}
_MAX_EXPANSION_OTHERS = 40_000

_JPEG = (COMPRESSION.JPEG, COMPRESSION.OJPEG)
# All others may be lossy, which the tags of most of them (JPEG 2000, JPEG XL, JPEG XR, WebP, LERC) do not tell.
_EXACT = (COMPRESSION.NONE, COMPRESSION.CCITTRLE, COMPRESSION.CCITTFAX3, COMPRESSION.CCITTFAX4, COMPRESSION.LZW,
          COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE, COMPRESSION.PACKBITS, COMPRESSION.LZMA, COMPRESSION.ZSTD,
          COMPRESSION.ZSTD_DEPRECATED, COMPRESSION.PNG)
_GREY = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
_ALPHA = (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)
_AXES = {'T': 'time points', 'Z': 'slices', 'Q': 'pages of unstated meaning', 'I': 'pages of unstated meaning'}


def read(path, most=math.inf):
    """Read the image with the most pixels among those of a TIFF file.

    Args:
        path (str | Path): The file.
        most (float): How many bytes its samples may take.

    Returns:
        Raster: The stored samples and what they mean.

    Raises:
        CellDataError: If the file is damaged, truncated, a stack, has four channels or more, a colour model other than
            grey, palette, RGB or JPEG's YCbCr, or needs more bytes.
    """
    with reading(path), tifffile.TiffFile(path) as tif:
        series = largest_series(path, tif)
        channels = channels_of(path, series)
        check_backed_by_bytes(path, tif, series)
        check_size(path, axis_size(series, 'Y'), axis_size(series, 'X'), series.nbytes, most)
        values = series.asarray(maxworkers=1)
        if values.shape != series.shape:
            raise CellDataError(path, f'holds data of shape {values.shape}, not {series.shape} as it says', AGAIN)
        values = np.moveaxis(values.reshape([axis_size(series, axis) for axis in channels.order]),
                             [channels.order.index('Y'), channels.order.index('X')], [0, 1])
        return raster_of(path, series.keyframe, channels, values.reshape(*values.shape[:2], -1)[..., :channels.count])


def raster_of(path, page, channels, values):
    """Say what the samples of a series, or of a window of it, mean.

    Args:
        path (str | Path): The file, for errors.
        page (tifffile.TiffPage): The series' keyframe.
        channels (Channels): What `channels_of` says.
        values (np.ndarray): (H, W, count).

    Returns:
        Raster: The samples.

    Raises:
        CellDataError: If the palette has no colour for one of them.
    """
    if channels.kind == 'palette' and values.dtype == bool:
        # Indices; NumPy would take them for a mask.
        values = values.view(np.uint8)
    bits = page.bitspersample if isinstance(page.bitspersample, int) else 8 * values.itemsize
    palette = _palette(path, page, values) if channels.kind == 'palette' else None
    return Raster(values, channels.kind, bits, palette, page.photometric == PHOTOMETRIC.MINISWHITE,
                  '' if page.compression in _EXACT else page.compression.name)


def read_pixel_size(path):
    """Micrometres for each pixel of what `read` would return, or None where the file does not tell.

    Taken from OME-XML's PhysicalSizeX and its unit, else ImageJ's resolution and its unit, else Aperio's MPP, else the
    resolution tags where their unit is the centimetre. Unknown is also what is outside 0.001 to 10 micrometres, and a
    plain resolution by the inch: 72, 96 or 300 dpi are set by programs that know nothing of the microscope.

    Raises:
        CellDataError: If the file is no readable TIFF.
    """
    with reading(path), tifffile.TiffFile(path) as tif:
        return pixel_size(tif, largest_series(path, tif))


def pixel_size(tif, series):
    """`read_pixel_size` of an open file."""
    page = series.keyframe
    if tif.is_ome:
        found = _ome_pixel_size(tif.ome_metadata, axis_size(series, 'X'))
    elif tif.is_imagej:
        unit = str((tif.imagej_metadata or {}).get('unit', '')).replace('\\u00B5', 'µ')
        found = MICROMETRES.get(unit, math.nan) * _pixel_length(page)
    elif aperio := re.search(r'\bMPP\s*=\s*([\d.]+)', page.description):
        found = _number(aperio[1])
    else:
        found = 1e4 * _pixel_length(page) if page.resolutionunit == tifffile.RESUNIT.CENTIMETER else math.nan
    return plausible(found)


def axis_size(series, axis):
    return dict(zip(series.axes, series.shape, strict=True)).get(axis, 1)


def largest_series(path, tif):
    """The series (or pyramid level) with most pixels; thumbnails, label and macro images of slides lose to it."""
    found = [level for series in tif.series for level in series.levels
             if not level.keyframe.is_mask and {'Y', 'X'} <= set(level.axes) and 0 not in level.shape]
    areas = [axis_size(level, 'Y') * axis_size(level, 'X') for level in found]
    if not found:
        raise CellDataError(path, 'holds no image of at least one pixel', AGAIN)
    if areas.count(max(areas)) > 1:
        raise CellDataError(path, f'holds {areas.count(max(areas))} images of the same size',
                            'save the one that is meant as a file of its own')
    # tifffile goes on without the pages that a truncated file lacks, and without ImageJ's planes that have no page.
    tif.filehandle.seek(tif.pages.next_page_offset)
    largest = found[np.argmax(areas)]
    if tif.filehandle.read(tif.tiff.offsetsize) != bytes(tif.tiff.offsetsize) or (
            tif.is_imagej and largest.kind in ('generic', 'uniform')):
        raise CellDataError(path, 'lacks some of its images', AGAIN)
    return largest


class Channels(NamedTuple):
    """What the samples of a series mean.

    Attributes:
        kind: That of their `Raster`.
        count: How many of them, the first, are shown.
        order: Axes of the series, without those of size 1 other than Y and X.
    """

    kind: str
    count: int
    order: str


def channels_of(path, series):
    """What the samples of a series mean, by axes, photometric and extra-sample tags; refuses stacks."""
    page = series.keyframe
    order = ''.join(axis for axis, size in zip(series.axes, series.shape, strict=True) if size > 1 or axis in 'YX')
    extra = [axis for axis in order if axis not in 'YXCS']
    if extra:
        meaning = ', '.join(f'{axis_size(series, axis)} {_AXES.get(axis, f"planes along {axis}")}' for axis in extra)
        raise CellDataError(path, f'is a stack of {meaning}',
                            'save one plane as a file of its own, or name the axes (such as CYX) when saving channels')
    if order.count('C') + order.count('S') > 1:
        raise CellDataError(path, 'holds several images of several samples each', 'save one as a file of its own')
    stored = axis_size(series, 'C') * axis_size(series, 'S')
    if page.photometric in (PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR):
        if (page.photometric == PHOTOMETRIC.YCBCR and page.compression not in _JPEG) or (
                page.compression == COMPRESSION.APERIO_JP2000_YCBC):
            raise CellDataError(path, 'stores YCbCr colours without JPEG compression', 'save it as RGB')
        if page.samplesperpixel < 3 or stored != page.samplesperpixel:
            raise CellDataError(path, f'says RGB but has {page.samplesperpixel} samples', 'save it as RGB or grey')
        return Channels('rgb', 3, order)
    if page.photometric == PHOTOMETRIC.PALETTE and stored == 1:
        return Channels('palette', 1, order)
    if page.photometric not in _GREY:
        name = getattr(page.photometric, 'name', page.photometric)
        raise CellDataError(path, f'has the colour model {name}', 'save it as RGB or grey')
    count = stored - sum(sample in _ALPHA for sample in page.extrasamples)
    if not 1 <= count <= 3:
        raise CellDataError(path, f'has {count} channels', 'save one to three channels, shown as red, green and blue')
    return Channels('grey' if count == 1 else 'channels', count, order)


def check_backed_by_bytes(path, tif, series):
    """Refuse a file that ends before its data, or claims more pixels than its bytes can hold."""
    page, end = series.keyframe, tif.filehandle.size
    if any(p is None or p.parent is not tif for p in series.pages):
        raise CellDataError(path, 'lacks planes, or keeps them in other files', 'save it as one file')
    if series.dtype is None or series.dtype.kind not in 'buif':
        raise CellDataError(path, f'has the pixel type {series.dtype}', 'save it as integers or floats')
    if series.dataoffset is not None:
        if series.dataoffset + series.nbytes > end:
            raise CellDataError(path, 'ends before its pixels do', AGAIN)
        return
    expansion = _MAX_EXPANSION.get(page.compression, _MAX_EXPANSION_OTHERS)
    pixels = math.prod(page.chunked) * math.prod(page.chunks) if page.is_tiled else page.size
    bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
    for one in series.pages:
        offsets, counts = one.dataoffsets, one.databytecounts
        needed = 1 if page.is_contiguous else math.prod(page.chunked)
        if min(len(offsets), len(counts)) < needed or not all(offsets) or not all(counts):
            raise CellDataError(path, 'lacks some of its strips or tiles', AGAIN)
        if any(offset + count > end for offset, count in zip(offsets, counts, strict=False)):
            raise CellDataError(path, 'ends before its pixels do', AGAIN)
        if pixels * bits // 8 > expansion * sum(counts):
            size = f'{page.imagelength} x {page.imagewidth}'
            raise CellDataError(path, f'claims {size} pixels, more than its bytes can hold', AGAIN)


def _palette(path, page, values):
    colors = page.colormap
    if colors is None or colors.ndim != 2 or colors.shape[0] != 3 or values.max() >= colors.shape[1]:
        raise CellDataError(path, 'has no palette for all of its values', 'save it as RGB')
    # The tag holds 16 bits a colour, but some writers store 8.
    return (colors.T >> 8 if colors.max() > 255 else colors.T).astype(np.uint8)


def _pixel_length(page):
    """Length of a pixel in the resolution tags' unit; nan where unknown."""
    numerator, denominator = page.tags.valueof('XResolution', default=(0, 0))
    return denominator / numerator if numerator and denominator else math.nan


def _ome_pixel_size(xml, width):
    """PhysicalSizeX in micrometres of the first Pixels element as wide as the image that is read."""
    for element in re.findall(r'<(?:\w+:)?Pixels\b[^>]*', xml or ''):
        attributes = dict(re.findall(r'(\w+)\s*=\s*["\']([^"\']*)["\']', element))
        if attributes.get('SizeX') == str(width):
            # The schema's default unit.
            unit = html.unescape(attributes.get('PhysicalSizeXUnit', 'µm'))
            return _number(attributes.get('PhysicalSizeX')) * MICROMETRES.get(unit, math.nan)
    return math.nan


def _number(text):
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan
