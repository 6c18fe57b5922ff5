"""OME-Zarr images and Zarr arrays by windows: only the chunks that a window needs are decoded.

What an axis means is read from the metadata and never guessed from a size.
"""
import math
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zarr

from cellseg_mm.errors import CellDataError
from cellseg_mm.io.chunks import ChunkedImage
from cellseg_mm.io.levels import Level
from cellseg_mm.io.pixel_size import MICROMETRES, plausible
from cellseg_mm.io.raster import Raster
from cellseg_mm.io.reading import AGAIN

# The most bytes of samples that may have to be decoded for one window of any size.
_MOST_AT_ONCE = 2**29
# Bytes of samples that are read whatever the folder holds, and how many a stored byte may stand for beyond: slides may
# lack the chunks of glass.
_ALWAYS, _EXPANSION = 2**32, 40_000
_CHANNELS = ('c', 'channel', 'channels')
_COLORS = ('s', 'sample', 'samples', 'rgb')


def zarr_levels(path):
    """The resolutions of the image in a Zarr folder, and the length of its pixels.

    - OME-Zarr (NGFF 0.4 and 0.5): the axes, levels and pixel size that its multiscales metadata give.
    - An array by itself: its dimension names (Zarr 3) or `_ARRAY_DIMENSIONS` (Zarr 2), in any order: y, x, and c or
      channel for channels of fluorescence, or s, sample or rgb for the colours of a pixel. Two dimensions without names
      are y and x.

    Time points, slices and other dimensions have to be of length 1.

    Args:
        path (str | Path): The folder.

    Returns:
        tuple[list[Level], float | None]: Of `Raster`, from the largest down, and micrometres for each pixel or None.
            Levels after the first that are unlike it, or that would be refused by themselves, are left out.

    Raises:
        CellDataError: If it holds no image, several, a stack, or four channels or more, or does not name its axes;
            other errors are Zarr's.
    """
    node = zarr.open(path, mode='r')
    if isinstance(node, zarr.Array):
        return [_level(path, node, _names(path, node))], None
    attributes = node.attrs.asdict()
    attributes = attributes.get('ome', attributes)
    if 'multiscales' not in attributes:
        raise CellDataError(path, *_no_image(attributes))
    # Of several, the first is the one to show, says the specification.
    multiscale = attributes['multiscales'][0]
    axes = [axis for axis in multiscale.get('axes', ()) if isinstance(axis, dict)]
    names = [str(axis['name']).lower() for axis in axes]
    first, *others = (node[dataset['path']] for dataset in multiscale['datasets'])
    levels, count = [_level(path, first, names)], _axes(path, first, names).count
    for array in others:
        with suppress(CellDataError):
            if array.dtype == first.dtype and _axes(path, array, names).count == count:
                levels.append(_level(path, array, names))
    levels.sort(key=lambda level: -level.height * level.width)
    return levels, _pixel_size(multiscale, axes, names.index('x'))


def _no_image(attributes):
    if 'plate' in attributes or 'well' in attributes:
        return 'is a plate of many images', 'name one of them, such as plate.zarr/A/1/0'
    if 'bioformats2raw.layout' in attributes:
        return 'is a collection of images', 'name one of them, such as its subfolder 0'
    return 'is a Zarr group without an image', 'name one of its arrays, or write it as OME-Zarr'


def _names(path, array):
    """Lower-case names of an array's dimensions."""
    names = getattr(array.metadata, 'dimension_names', None) or array.attrs.get('_ARRAY_DIMENSIONS')
    if names is None and array.ndim == 2:
        return ['y', 'x']
    if names is None or None in names or len(names) != array.ndim:
        raise CellDataError(path, f'does not name its {array.ndim} dimensions',
                            "write it with dimension_names=['y', 'x', 's'] for colours or 'c' for channels (Zarr 3), "
                            'or with the attribute _ARRAY_DIMENSIONS (Zarr 2)')
    return [str(name).lower() for name in names]


class _Axes(NamedTuple):
    y: int
    x: int
    samples: int | None
    count: int
    is_color: bool


def _axes(path, array, names):
    if array.ndim != len(names):
        raise CellDataError(path, f'names {len(names)} axes for {array.ndim} dimensions',
                            'write it again as OME-Zarr 0.4 or 0.5')
    if not {'y', 'x'} <= set(names) or len(set(names)) < len(names):
        raise CellDataError(path, f'has the dimensions {", ".join(names)}', 'name two of them y and x')
    samples = [i for i, name in enumerate(names) if name in _CHANNELS + _COLORS and array.shape[i] > 1]
    extra = [f'{array.shape[i]} along {name}' for i, name in enumerate(names)
             if array.shape[i] > 1 and name not in ('y', 'x') and i not in samples]
    if extra or len(samples) > 1:
        raise CellDataError(path, f'is a stack of images, {", ".join(extra) or "several samples each"}',
                            'save one of them by itself')
    if not samples:
        return _Axes(names.index('y'), names.index('x'), None, 1, False)
    return _Axes(names.index('y'), names.index('x'), samples[0], array.shape[samples[0]], names[samples[0]] in _COLORS)


def _level(path, array, names):
    axes = _axes(path, array, names)
    height, width = array.shape[axes.y], array.shape[axes.x]
    count = axes.count
    if array.dtype.kind not in 'buif':
        raise CellDataError(path, f'has the pixel type {array.dtype}', 'save it as integers or floats')
    if 0 in array.shape:
        raise CellDataError(path, 'holds no image of at least one pixel', AGAIN)
    if count > 3:
        raise CellDataError(path, f'has {count} channels', 'save one to three channels, shown as red, green and blue')
    # All samples of a pixel are decoded together.
    together = 1 if axes.samples is None else math.ceil(count / array.chunks[axes.samples])
    if math.prod(array.chunks) * together * array.dtype.itemsize > _MOST_AT_ONCE:
        raise CellDataError(path, f'is stored in chunks of {" x ".join(map(str, array.chunks))}',
                            'write it in smaller ones, such as 1024 x 1024')
    claimed = math.prod(array.shape) * array.dtype.itemsize
    if claimed > _ALWAYS and claimed > _EXPANSION * _stored(path, claimed / _EXPANSION):
        raise CellDataError(path, f'claims {height} x {width} pixels, more than its bytes can hold', AGAIN)
    kind = 'grey' if count == 1 else 'rgb' if axes.is_color and count == 3 else 'channels'
    chunk_height, chunk_width = min(array.chunks[axes.y], height), min(array.chunks[axes.x], width)
    dtype = array.dtype.newbyteorder('=')

    def load(row, column):
        window = [slice(None)] * array.ndim
        window[axes.y] = slice(row * chunk_height, min((row + 1) * chunk_height, height))
        window[axes.x] = slice(column * chunk_width, min((column + 1) * chunk_width, width))
        values = np.moveaxis(np.asarray(array[tuple(window)]), [axes.y, axes.x], [0, 1])
        return values.reshape(*values.shape[:2], count).astype(dtype)

    image = ChunkedImage((height, width, count), dtype, (chunk_height, chunk_width), load)
    return Level(height, width, lambda *window: Raster(image.read(*window), kind, 8 * dtype.itemsize))


def _stored(path, enough):
    """Bytes in a folder, counted until they are enough."""
    size = 0
    for file in Path(path).rglob('*'):
        size += file.stat().st_size
        if size >= enough:
            break
    return size


def _pixel_size(multiscale, axes, x):
    factor = MICROMETRES.get(axes[x].get('unit'), math.nan)
    steps = [*multiscale['datasets'][0].get('coordinateTransformations', ()),
             *multiscale.get('coordinateTransformations', ())]
    scales = [step['scale'][x] for step in steps if step.get('type') == 'scale']
    return plausible(factor * math.prod(scales)) if scales else None
