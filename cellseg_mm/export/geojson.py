"""GeoJSON as QuPath reads it: one detection a cell, with its class and measurements."""
import json

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
        measurements (Mapping[str, ndarray], optional): Further columns (N,) of numbers by name, shown beside the score.
        tolerance (float): How far, in pixels, outlines may run from the edges of the pixels.
    """
    measurements = {'score': cells.scores, **(measurements or {})}
    kinds = [{'name': name, 'color': list(map(int, color))} for name, color in zip(classes, colors, strict=True)]
    with atomic_path(path) as partial, partial.open('w', encoding='utf-8') as file:
        file.write('{"type":"FeatureCollection","features":[')
        for first in range(0, len(cells), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            part = cells[np.arange(len(cells))[some]]
            values = zip(*(_plain(column[some]) for column in measurements.values()), strict=True)
            features = [_feature(shape, kinds[label], dict(zip(measurements, row, strict=True)))
                        for shape, label, row in zip(polygons(part.masks, tolerance), part.labels, values, strict=True)]
            file.write(',\n'[not first:] + ',\n'.join(features))
        file.write(']}\n')


def _feature(shape, kind, measurements):
    # Measurements that are no number, such as the solidity of nothing, are left out: JSON has no word for them.
    properties = {'objectType': 'detection', 'classification': kind,
                  'measurements': {name: value for name, value in measurements.items() if value is not None}}
    geometry = json.dumps(shapely.geometry.mapping(shape), separators=(',', ':'))
    return f'{{"type":"Feature","geometry":{geometry},"properties":{json.dumps(properties, separators=(",", ":"))}}}'


def _plain(column):
    """Numbers for JSON: of six digits, None for those that are not finite."""
    return [float(f'{value:.6g}') if np.isfinite(value) else None for value in column.tolist()]
