"""COCO results of cells, as testing writes them and `evaluation` reads them."""
import json

import numpy as np

from cellseg_mm.evaluation.instances import results_of
from cellseg_mm.io.files import atomic_path

_AT_ONCE = 4096


def write_coco(path, images):
    """Write cells as COCO results, a part at a time, and the file whole or not at all.

    Args:
        path (str | Path): Where to.
        images (Iterable[tuple[int, Cells]]): The id of each image, and its cells, whose category is their label + 1.
            Empty ones are left out.
    """
    with atomic_path(path) as partial, partial.open('w', encoding='utf-8') as file:
        file.write('[')
        separator = ''
        for image_id, cells in images:
            filled = np.flatnonzero(cells.masks.boxes[:, 2] > 0)
            for first in range(0, len(filled), _AT_ONCE):
                part = cells[filled[first:first + _AT_ONCE]]
                results = results_of(image_id, part.masks, (part.labels + 1).tolist(), part.scores.tolist())
                file.write(separator + ',\n'.join(map(json.dumps, results)))
                separator = ',\n'
        file.write(']\n')
