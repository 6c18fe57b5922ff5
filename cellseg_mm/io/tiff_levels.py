"""TIFF files of any size by windows: only the tiles, strips or rows that a window needs are decoded."""
import math

import numpy as np

from cellseg_mm.errors import CellDataError
from cellseg_mm.io.chunks import ChunkedImage
from cellseg_mm.io.levels import Level
from cellseg_mm.io.tiff import axis_size, channels_of, check_backed_by_bytes, raster_of

# The most bytes of samples that may have to be decoded for one window of any size.
_MOST_AT_ONCE = 2**27
# About how many bytes are read at once where nothing has to be decoded.
_BAND = 2**22


def tiff_levels(path, tif, series):
    """The resolutions of an image in a TIFF file.

    Args:
        path (str | Path): The file, for errors.
        tif (tifffile.TiffFile): It, opened; it has to stay open while the levels are read.
        series (tifffile.TiffPageSeries): As `tiff.largest_series` gives it.

    Returns:
        list[Level]: Of `Raster`, from the largest down; smaller ones that are damaged or unlike it are left out. Empty
            where no part of the largest can be read without all of it.

    Raises:
        CellDataError: If the largest is what `tiff.read` refuses.
    """
    channels = channels_of(path, series)
    check_backed_by_bytes(path, tif, series)
    levels = [_level(path, tif, series, channels)]
    for smaller in series.levels[1:] if levels[0] else ():
        try:
            check_backed_by_bytes(path, tif, smaller)
            alike = channels_of(path, smaller) == channels and smaller.dtype == series.dtype
        except CellDataError:
            continue
        levels.append(_level(path, tif, smaller, channels) if alike else None)
    return sorted(filter(None, levels), key=lambda level: -level.height * level.width)


def _level(path, tif, series, channels):
    """A `Level`, or None if it cannot be read by parts."""
    page = series.keyframe
    order = channels.order.replace('C', 'S')
    if order not in ('YX', 'YXS', 'SYX') or series.transform is not None:
        return None
    height, width = axis_size(series, 'Y'), axis_size(series, 'X')
    stored = axis_size(series, 'C') * axis_size(series, 'S')
    planes, samples = (stored, 1) if order == 'SYX' else (1, stored)
    segments = math.prod(page.chunked)
    if series.dataoffset is not None:
        plane = height * width * samples * series.dtype.itemsize
        offsets = [series.dataoffset + i * plane for i in range(planes)]
        chunk_shape, load = _bands(tif, series, offsets, (height, width, samples))
    elif page.shaped[1:] == (1, height, width, samples) and page.shaped[0] * len(series) == planes and (
            min(len(one.dataoffsets) for one in series) >= segments):
        chunk_shape, load = _segments(tif, series, (height, width))
    else:
        return None
    needed = min(planes, channels.count)
    if math.prod(chunk_shape) * samples * needed * series.dtype.itemsize > _MOST_AT_ONCE:
        return None

    def load_all(row, column):
        planes = [load(plane, row, column) for plane in range(needed)]
        return np.concatenate(planes, axis=-1)[..., :channels.count].astype(series.dtype, copy=False)

    image = ChunkedImage((height, width, channels.count), series.dtype, chunk_shape, load_all)
    return Level(height, width, lambda *window: raster_of(path, page, channels, image.read(*window)))


def _bands(tif, series, offsets, shape):
    """Chunks of rows that lie in the file as they are, plane after plane: their shape, and how to load one."""
    height, width, samples = shape
    dtype = series.dtype.newbyteorder(tif.byteorder)
    length = width * samples * dtype.itemsize
    rows = min(height, max(1, _BAND // length))

    def load(plane, row, _):
        first = row * rows
        data = _bytes(tif, offsets[plane] + first * length, min(rows, height - first) * length)
        return np.frombuffer(data, dtype).reshape(-1, width, samples)

    return (rows, width), load


def _segments(tif, series, shape):
    """Chunks that are strips or tiles: their shape, and how to load one."""
    page, pages, (height, width) = series.keyframe, list(series), shape
    chunk_height, chunk_width = ((page.tilelength, page.tilewidth) if page.is_tiled else
                                 (min(page.rowsperstrip, height), width))
    columns = math.ceil(width / chunk_width)
    segments = math.ceil(height / chunk_height) * columns

    def load(plane, row, column):
        of_series, of_page = divmod(plane, page.shaped[0])
        one, index = pages[of_series], of_page * segments + row * columns + column
        data = _bytes(tif, one.dataoffsets[index], one.databytecounts[index])
        segment = page.decode(data, index, jpegtables=one.jpegtables, jpegheader=page.jpegheader)[0]
        return segment[0, :height - row * chunk_height, :width - column * chunk_width]

    return (chunk_height, chunk_width), load


def _bytes(tif, offset, count):
    tif.filehandle.seek(offset)
    data = tif.filehandle.read(count)
    if len(data) < count:
        raise ValueError('the file ends before its pixels do')
    return data
