"""Label maps and class maps as tiled OME-TIFF, drawn and compressed a tile at a time: the canvas is never held."""
import hashlib
import re
from uuid import UUID

import numpy as np
import tifffile

from cellseg_mm.io.files import atomic_path
from cellseg_mm.io.pixel_size import plausible
from cellseg_mm.structures.compiled import compiled
from cellseg_mm.structures.overlaps import bins

_TILE = 512
# Of classic TIFF, whose offsets have 32 bits; less what is no pixel.
_CLASSIC_BYTES = 2**32 - 2**25
# Of tiles that wait to be compressed.
_BUFFER = 2**24
# What XML has no form for.
_NOT_IN_XML = re.compile('[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]')


def write_label_map(path, cells, mpp=None):
    """Write which cell each pixel belongs to, whole or not at all.

    The values are uint32: 0 is background, and i + 1 cell number i. Where cells overlap, it is the later one's.

    Args:
        path (str | Path): Where to, by custom with the suffix '.ome.tif'.
        cells (Cells): N cells of one image.
        mpp (float, optional): Micrometres per pixel, where known; written if `plausible`.
    """
    _write(path, cells.masks, np.arange(1, len(cells) + 1, dtype=np.uint32), mpp, {})


def write_class_map(path, cells, classes, mpp=None):
    """Write which class each pixel belongs to, whole or not at all.

    The values are uint8, or uint16 for more than 255 classes: 0 is background, and label + 1 a cell. The names of the
    classes are in the OME metadata, as a map annotation from values to names, without control characters.

    Args:
        path (str | Path): Where to, by custom with the suffix '.ome.tif'.
        cells (Cells): N cells of one image.
        classes (Sequence[str]): The name of each label.
        mpp (float, optional): Micrometres per pixel, where known; written if `plausible`.
    """
    values = (cells.labels + 1).astype(np.uint8 if len(classes) <= np.iinfo(np.uint8).max else np.uint16)
    names = {str(value): _NOT_IN_XML.sub('', name) for value, name in enumerate(classes, 1)}
    _write(path, cells.masks, values, mpp, {'MapAnnotation': {'Description': 'classes', **names}})


def _write(path, masks, values, mpp, metadata):
    shape = masks.height, masks.width
    options = {}
    # Of other lengths, the resolution tags have no form, and readers believe none.
    if mpp is not None and plausible(mpp):
        options = dict(resolution=(1e4 / mpp, 1e4 / mpp), resolutionunit='CENTIMETER')
        metadata = {**metadata, 'PhysicalSizeX': mpp, 'PhysicalSizeXUnit': 'µm', 'PhysicalSizeY': mpp,
                    'PhysicalSizeYUnit': 'µm'}
    # By what is drawn, not by time and machine: the same cells give the same bytes.
    drawn = hashlib.sha256(repr((masks.height, masks.width, metadata)).encode())
    for array in (masks.pixels, masks.boxes, values):
        drawn.update(np.ascontiguousarray(array))
    metadata = {**metadata, 'UUID': str(UUID(bytes=drawn.digest()[:16], version=5))}
    # What it will compress to is not known before.
    big = masks.height * masks.width * values.itemsize > _CLASSIC_BYTES
    with atomic_path(path) as partial, tifffile.TiffWriter(partial, bigtiff=big, ome=True) as tiff:
        tiff.write(_tiles(masks, values), shape=shape, dtype=values.dtype, tile=(_TILE, _TILE), compression='zlib',
                   photometric='minisblack', metadata={'axes': 'YX', **metadata}, buffersize=_BUFFER, **options)


def _tiles(masks, values):
    columns, rows = -(-masks.width // _TILE), -(-masks.height // _TILE)
    starts, members = bins(masks.boxes, _TILE, columns, rows)
    for place in range(columns * rows):
        tile = np.zeros((_TILE, _TILE), values.dtype)
        _draw(masks.pixels, masks.boxes, masks.offsets, members[starts[place]:starts[place + 1]], values,
              place % columns * _TILE, place // columns * _TILE, tile)
        yield tile


@compiled
def _draw(pixels, boxes, offsets, members, values, x, y, tile):
    """Set the pixels of some masks within a tile, whose corner is at x and y of the canvas."""
    for i in members:
        left, top, width, height = boxes[i]
        first, last = max(left, x), min(left + width, x + tile.shape[1])
        for row in range(max(top, y), min(top + height, y + tile.shape[0])):
            source = offsets[i] + (row - top) * width - left
            for column in range(first, last):
                if pixels[source + column]:
                    tile[row - y, column - x] = values[i]
