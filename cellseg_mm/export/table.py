"""Tables of cells, one row a cell: what is measured, and CSV and Parquet files of it."""
import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from cellseg_mm.io.files import atomic_path
from cellseg_mm.structures.measurements import mean_colors, shapes
from cellseg_mm.structures.stains import DENSITIES, STAINS

_ROWS = 2**16


def measure(cells, classes, image, mpp=None):
    """Measure cells.

    Args:
        cells (Cells): N cells of one image, none of them empty.
        classes (Sequence[str]): The name of each label.
        image: Its `read(x, y, width, height)` gives uint8 (height, width, 3) BGR of a window.
        mpp (float, optional): Micrometres per pixel, where known.

    Returns:
        dict[str, ndarray]: Columns (N,) by name, in the order to write them, sizes and shapes as scikit-image's
            `regionprops` defines them. Those in micrometres are there where `mpp` is.

            - cell: 1 for the first. class: Its name. score: From 0 to 1.
            - x_px, y_px, x_um, y_um: The centroid. 0 is the middle of the image's first pixel, so that outlines,
              which begin at that pixel's edge, have it at half a pixel more.
            - area_px, area_um2, perimeter_px, major_axis_px, minor_axis_px, perimeter_um, major_axis_um,
              minor_axis_um, eccentricity, orientation, solidity: Of `structures.measurements.Shapes`. The axes are
              what scikit-image calls axis_major_length and axis_minor_length.
            - mean_red, mean_green, mean_blue: From 0 to 255.
            - mean_hematoxylin, mean_eosin, mean_dab: By colour deconvolution, in the unit of scikit-image's `rgb2hed`
              but without its cut at 0. In H&E, the last is what neither stain explains.
    """
    found = shapes(cells.masks)
    lengths = {name: getattr(found, name) for name in ('perimeter', 'major_axis', 'minor_axis')}
    # Linear in optical density, so that the stains' means are those of the mean density.
    colors, density = mean_colors(image, cells.masks, np.stack([np.arange(256.0), DENSITIES]))[..., ::-1].swapaxes(0, 1)
    stains = density @ np.linalg.inv(STAINS)

    columns = {'cell': np.arange(1, len(cells) + 1), 'class': np.array(classes, str)[cells.labels],
               'score': cells.scores, 'x_px': found.x, 'y_px': found.y}
    if mpp is not None:
        columns |= {'x_um': mpp * found.x, 'y_um': mpp * found.y}
    columns['area_px'] = cells.masks.areas
    if mpp is not None:
        columns['area_um2'] = mpp**2 * columns['area_px']
    columns |= {f'{name}_px': length for name, length in lengths.items()}
    if mpp is not None:
        columns |= {f'{name}_um': mpp * length for name, length in lengths.items()}
    columns |= {name: getattr(found, name) for name in ('eccentricity', 'orientation', 'solidity')}
    columns |= dict(zip(('mean_red', 'mean_green', 'mean_blue'), colors.T, strict=True))
    columns |= dict(zip(('mean_hematoxylin', 'mean_eosin', 'mean_dab'), stains.T, strict=True))
    return columns


def write_csv(path, columns):
    """Write a table as CSV in UTF-8, whole or not at all.

    Args:
        path (str | Path): Where to.
        columns (dict[str, ndarray]): Columns (N,) of numbers or text by name.
    """
    # Opened here, since Arrow takes no names that are no text.
    with atomic_path(path) as partial, partial.open('wb') as file, csv.CSVWriter(file, _schema(columns)) as writer:
        _write(writer, columns)


def write_parquet(path, columns):
    """Write a table as Parquet, whole or not at all; see `write_csv`."""
    with atomic_path(path) as partial, partial.open('wb') as file, parquet.ParquetWriter(
            file, _schema(columns)) as writer:
        _write(writer, columns)


def _schema(columns):
    return pa.schema([(name, pa.from_numpy_dtype(column.dtype)) for name, column in columns.items()])


def _write(writer, columns):
    schema = _schema(columns)
    rows = len(next(iter(columns.values())))
    for first in range(0, rows, _ROWS):
        part = {name: column[first:first + _ROWS] for name, column in columns.items()}
        writer.write_table(pa.table(part, schema))
