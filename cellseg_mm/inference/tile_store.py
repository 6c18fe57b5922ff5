"""What was found in the tiles of an image, on disk, so that a killed prediction goes on where it was."""
import json
import shutil
from pathlib import Path

import numpy as np

from cellseg_mm.io.files import atomic_path, write_json
from cellseg_mm.structures.cells import Cells
from cellseg_mm.structures.local_masks import LocalMasks


class TileStore:
    """A folder of tiles, of one image and one way to look at it.

    Several processes may write to it, each tile by one of them.

    Args:
        folder (str | Path): Made where there is none; what another image, or another way, left there is deleted.
        plan (dict): What the cells depend on, as JSON gives it back.
    """

    def __init__(self, folder, plan):
        self._folder = Path(folder)
        path = self._folder / 'plan.json'
        if self._folder.exists() and _plan(path) != plan:
            shutil.rmtree(self._folder)
        if not path.is_file():
            write_json(path, plan)

    def __contains__(self, tile):
        """Whether a tile is kept, and can be read: files that were written as the power went may be empty."""
        try:
            return self._path(tile).is_file() and self.read(tile) is not None
        except Exception:  # a damaged file can fail anywhere
            return False

    def write(self, tile, cells):
        """Keep what was found in a tile."""
        masks = cells.masks
        with atomic_path(self._path(tile)) as partial, partial.open('wb') as file:
            np.savez(file, pixels=np.packbits(masks.pixels), boxes=masks.boxes, shape=(masks.height, masks.width),
                     labels=cells.labels, scores=cells.scores)

    def read(self, tile):
        """Cells of a tile that is kept."""
        with np.load(self._path(tile)) as file:
            boxes = file['boxes']
            pixels = np.unpackbits(file['pixels'], count=int((boxes[:, 2] * boxes[:, 3]).sum()))
            return Cells(LocalMasks(pixels, boxes, *file['shape'].tolist()), file['labels'], file['scores'])

    def delete(self):
        """Delete the folder and all in it."""
        shutil.rmtree(self._folder)

    def _path(self, tile):
        return self._folder / f'{tile}.npz'


def _plan(path):
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
