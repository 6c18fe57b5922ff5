"""CoNSeP in the layout of this project: python benchmarks/consep.py OUT [--crops] [--limit N].

The folder that the environment variable CELLSEG_REAL_DATA names holds CoNSeP as patches of 256 px, and a script,
`build_hw3_layout.py`, that puts tiles of 1,000 px together and writes them out: whole, or as crops of many sizes. That
script exchanges the right edge of each tile with its lower edge, so that 45% of a tile shows other tissue than its
labels say. This one runs it with the patches where they belong, as their overlaps show.
"""
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np

_EDGES = slice(9, 15)  # of 16 patches: after 3 x 3 of the tile's middle, before the corner
_MOST = 6.0  # grey levels, by which two JPEG files of the same tissue differ at the most, on average


def load():
    """The script as a module, whose `read_tile` gives tiles without a seam."""
    root = os.environ.get('CELLSEG_REAL_DATA')
    if root is None:
        sys.exit('error: name the folder of the real data by the environment variable CELLSEG_REAL_DATA')
    path = Path(root, 'build_hw3_layout.py')
    spec = importlib.util.spec_from_file_location(path.stem, path)
    layout = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(layout)
    given = layout.patch_origins()
    exchanged = [*given[:_EDGES.start], *((row, column) for column, row in given[_EDGES]), *given[_EDGES.stop:]]
    seam, origins = min((_seam(layout, origins), origins) for origins in (given, exchanged))
    if seam > _MOST:
        sys.exit(f'error: {path}: its patches fit together in no known way')
    layout.patch_origins = lambda: origins
    return layout


def _seam(layout, origins):
    """How much patches differ where they show the same of the first tile: mean grey levels."""
    name = layout.tile_names('train')[0]
    patches = [np.asarray(layout.Image.open(layout.HERE / f'patches/train/{name}_{number:03d}.jpg').convert('L'))
               for number in range(len(origins))]
    differences = []
    for one, (row, column) in enumerate(origins):
        for other, (down, right) in enumerate(origins[:one]):
            top, left = max(row, down), max(column, right)
            bottom, end = min(row, down) + layout.PATCH, min(column, right) + layout.PATCH
            if top < bottom and left < end:
                first = patches[one][top - row:bottom - row, left - column:end - column]
                second = patches[other][top - down:bottom - down, left - right:end - right]
                differences.append(np.abs(first.astype(float) - second).mean())
    return float(np.mean(differences))


if __name__ == '__main__':
    load().main()
