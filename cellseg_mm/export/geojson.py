"""GeoJSON as QuPath reads it: one detection a cell, with its class and measurements.

QuPath's form is a FeatureCollection, https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html:
coordinates in pixels from the upper left corner of the image, and as `properties` of a feature its `objectType`,
`classification` (`name`, and `color` as red, green, blue) and `measurements` (a number by name).
"""
import json
import math

import numpy as np
import shapely

from cellseg_mm.io.files import atomic_path
from cellseg_mm.structures.contours import polygons

TOLERANCE = 0.5  # pixels
_AT_ONCE = 4096


def write_geojson(path, cells, classes, colors, measurements=None, tolerance=TOLERANCE):
    """Write cells for QuPath, a part at a time and whole or not at all.

    Args:
        path (str | Path): Where to; QuPath wants the suffix '.geojson' or '.json'.
        cells (Cells): N cells of one image, none of them empty.
        classes (Sequence[str]): The name of each label.
        colors (Sequence[tuple[int]]): Its red, green and blue, 0 to 255.
        measurements (Mapping[str, ndarray], optional): Further columns (N,) by name, shown beside the number and the
            score of a cell, to seven digits; those that are no numbers are left out.
        tolerance (float): How far, in pixels, outlines may run from the edges of the pixels; 0 leaves them exact.
    """
    columns = {'cell': np.arange(1, len(cells) + 1), 'score': cells.scores, **(measurements or {})}
    columns = {json.dumps(name): column for name, column in columns.items() if column.dtype.kind in 'iuf'}
    kinds = [json.dumps({'name': name, 'color': list(map(int, color))})
             for name, color in zip(classes, colors, strict=True)]
    with atomic_path(path) as partial, partial.open('w', encoding='utf-8') as file:
        file.write('{"type":"FeatureCollection","features":[')
        for first in range(0, len(cells), _AT_ONCE):
            part = np.arange(len(cells))[first:first + _AT_ONCE]
            shapes = shapely.to_geojson(polygons(cells.masks[part], tolerance))
            values = zip(*(_texts(name, column[part]) for name, column in columns.items()), strict=True)
            features = [_feature(shape, kinds[label], row)
                        for shape, label, row in zip(shapes, cells.labels[part], values, strict=True)]
            file.write(',\n'[not first:] + ',\n'.join(features))
        file.write(']}\n')


def _feature(shape, kind, texts):
    # Corners are whole numbers, which need no point.
    shape = shape.replace('.0,', ',').replace('.0]', ']')
    return (f'{{"type":"Feature","geometry":{shape},"properties":{{"objectType":"detection","classification":{kind},'
            f'"measurements":{{{",".join(filter(None, texts))}}}}}}}')


def _texts(name, column):
    """Members of a JSON object; none for values that are not finite, for which JSON has no word."""
    if column.dtype.kind != 'f':
        return [f'{name}:{value}' for value in column.tolist()]
    return [f'{name}:{value:.7g}' if math.isfinite(value) else '' for value in column.tolist()]
