"""Images of any size and of many formats, read window by window."""
from contextlib import suppress
from pathlib import Path

import numpy as np
import tifffile

from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.io import tiff
from cellseg_mm.io.image import file_magic, read_raster
from cellseg_mm.io.image_list import is_zarr
from cellseg_mm.io.levels import array_level, bgr_levels, level_for, overview, raster_level
from cellseg_mm.io.raster import PERCENTILES, check_percentiles
from cellseg_mm.io.reading import reading
from cellseg_mm.io.tiff_levels import tiff_levels

# The most bytes of samples to hold where a file cannot be read by parts.
_MOST_HELD = 2**29
# Up to this many pixels a side, levels are read again for each overview; an overview of larger ones is kept.
_KEPT_SIDE = 8192


class Slide:
    """An image whose windows are read one by one; a context manager, for one thread of the process that opened it.

    It holds chunks that the latest windows needed, and an overview of at most 8,192 pixels a side where one was asked
    for that no level of such a size gives: 201 MB at the most, which save reading a slide without pyramid again.

    Args:
        path (Path | None): Its file.
        levels (list[Level]): Of BGR, from the largest down.
        mpp (float | None): Micrometres for each pixel, None where unknown.
        file (object | None): What to close in the end.

    Attributes:
        path, mpp: As given.
        height (int): Of the largest level.
        width (int): Of the largest level.
    """

    def __init__(self, path, levels, mpp=None, file=None):
        self.path, self.mpp = path, mpp
        self.height, self.width = levels[0].height, levels[0].width
        self._levels, self._file, self._kept = levels, file, None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        """Close the file, and forget what was decoded."""
        self._levels, self._kept = [], None
        if self._file is not None:
            self._file.close()

    def read(self, x, y, width, height):
        """Read a window at full resolution.

        Args:
            x (int): Its left column.
            y (int): Its upper row.
            width (int): At least 1.
            height (int): At least 1.

        Returns:
            np.ndarray: uint8 (height, width, 3), BGR, contiguous, the caller's own.

        Raises:
            ValueError: If it is not inside the image.
            CellDataError: If this part of the file is damaged.
        """
        if not (0 <= x < x + width <= self.width and 0 <= y < y + height <= self.height):
            raise ValueError(f'the window {(x, y, width, height)} is not inside {self.width} x {self.height} pixels')
        return self._levels[0].read(x, y, width, height)

    def overview(self, side):
        """Show all of the image in few pixels, each the mean of the area it stands for.

        Read from the smallest level that has that many pixels, window by window; where that one is larger than 8,192
        pixels a side, made of an overview of this size, which is kept.

        Args:
            side (int): At most how long the longer side becomes; smaller images stay as they are.

        Returns:
            np.ndarray: uint8 (h, w, 3), BGR.

        Raises:
            CellDataError: If a part of the file is damaged.
        """
        level = level_for(self._levels, side)[0]
        if side > _KEPT_SIDE or max(level.height, level.width) <= _KEPT_SIDE:
            return overview(self._levels, side)
        if self._kept is None:
            self._kept = array_level(overview(self._levels, _KEPT_SIDE))
        return overview([self._kept], side)


class ArrayImage(Slide):
    """An image in memory, read as a `Slide` is.

    Args:
        bgr (np.ndarray): uint8 (H, W, 3), BGR; not copied.
        mpp (float | None): Micrometres for each pixel, None where unknown.

    Raises:
        UserError: If the array is another.
    """

    def __init__(self, bgr, mpp=None):
        if bgr.dtype != np.uint8 or bgr.ndim != 3 or bgr.shape[2] != 3 or 0 in bgr.shape:
            raise UserError(f'an image is a uint8 array (H, W, 3) of BGR, not {bgr.dtype} {bgr.shape}')
        super().__init__(None, [array_level(bgr)], mpp)


def open_slide(path, percentiles=PERCENTILES):
    """Open an image to read it window by window.

    - TIFF files (BigTIFF, OME-TIFF, SVS, NDPI, pyramids) in tiles, strips or rows: only what a window needs is decoded,
      and kept for the windows beside it.
    - OME-Zarr images and Zarr arrays: likewise; see `zarr_levels` for their axes.
    - PNG, JPEG, BMP and TIFF files that cannot be read by parts: whole, up to 512 MiB of samples.
    - All else that OpenSlide knows (MRXS, SCN, BIF, Philips TIFF, DICOM, SVS of other colours, ...), if
      openslide-python is installed; within the bounds of what was scanned, where the slide tells them.

    Windows are those of `read_image`, which says how colours, channels and wide samples are shown. Percentiles of more
    than 128 MiB of samples are those of 16 x 16 squares of 256 x 256 pixels, spread evenly over the image, or, for a
    channel of which these show nothing, its extremes.

    Args:
        path (str | Path): A file, or the folder of a Zarr image.
        percentiles (tuple[float, float]): Lower and upper percentile, 0 to 100, that become 0 and 255.

    Returns:
        Slide: Its windows; close it, or use it as a context manager.

    Raises:
        CellDataError: If the file cannot be read as one image; says why and what to do.
        UserError: If the percentiles do not rise within 0 to 100.
    """
    check_percentiles(percentiles)
    path = Path(path)
    with reading(path):
        if path.is_dir():
            if not is_zarr(path):
                raise CellDataError(path, 'is a folder, and no Zarr image', 'name an image file')
            return _open_zarr(path, percentiles)
        magic = file_magic(path)
        # The index of a MIRAX slide may begin as a JPEG file does.
        if magic is None or path.suffix.lower() == '.mrxs':
            return _open_with_openslide(path)
        return _open_tiff(path, percentiles) if magic in tiff.MAGICS else _hold(path, percentiles)


def _open_zarr(path, percentiles):
    # Zarr takes long to import.
    from cellseg_mm.io.zarr_levels import zarr_levels
    levels, mpp = zarr_levels(path)
    return Slide(path, bgr_levels(path, levels, percentiles), mpp)


def _open_tiff(path, percentiles):
    tif = tifffile.TiffFile(path)
    try:
        if tif.is_scn or tif.is_bif or tif.is_philips:
            # What they store is not yet the picture: regions on a canvas, tiles that overlap or are left out.
            tif.close()
            return _open_with_openslide(path)
        series = tiff.largest_series(path, tif)
        levels, mpp = tiff_levels(path, tif, series), tiff.pixel_size(tif, series)
        if levels:
            return Slide(path, bgr_levels(path, levels, percentiles), mpp, tif)
    except BaseException as error:
        is_svs = isinstance(error, CellDataError) and tif.is_svs
        tif.close()
        if is_svs:
            with suppress(CellDataError):
                return _open_with_openslide(path)
        raise
    tif.close()
    return _hold(path, percentiles, mpp)


def _hold(path, percentiles, mpp=None):
    return Slide(path, bgr_levels(path, [raster_level(read_raster(path, _MOST_HELD))], percentiles), mpp)


def _open_with_openslide(path):
    try:
        import openslide

        from cellseg_mm.io.openslide_levels import openslide_levels, pixel_size
    except ImportError as error:
        raise CellDataError(path, 'is no TIFF in plain tiles, PNG, JPEG, BMP or Zarr image',
                            "install OpenSlide for other slides: pip install 'cellseg_mm[slides]'") from error
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise CellDataError(path, 'is no TIFF, PNG, JPEG, BMP or Zarr image, nor a slide that OpenSlide reads',
                            'save the image in one of these formats') from error
    return Slide(path, openslide_levels(path, slide), pixel_size(slide), slide)
