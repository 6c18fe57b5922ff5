"""Cells of all forms that exports are tried on."""
import numpy as np

from cellseg_mm.structures.cells import Cells
from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.structures.overlaps import without_overlap

CLASSES = ['tumour', 'immune cell', 'Übrige/<andere>']
COLORS = [(230, 159, 0), (86, 180, 233), (0, 158, 115)]


def cells_of(masks, seed=0):
    """Cells of full canvases, bool (N, H, W), without overlap and none empty."""
    rng = np.random.default_rng(seed)
    scores = rng.random(len(masks)).astype(np.float32)
    local = without_overlap(LocalMasks.from_bitmaps(masks), scores)
    cells = Cells(local, rng.integers(0, len(CLASSES), len(masks)), scores)
    return cells[local.boxes[:, 2] > 0]


def scene(seed, count=8, height=60, width=75):
    """Cells of all sizes and forms, with holes, in pieces, and at the borders of the image."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, height, width), bool)
    for mask in masks:
        h, w = rng.integers(1, 2 + min(height, width) // rng.choice([2, 5, 20]), 2)
        y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
        mask[y:y + h, x:x + w] = rng.random((h, w)) < rng.choice([0.3, 0.9, 1])
    return cells_of(masks, seed)


def slide(side, count, size=20):
    """`count` cells, round and of about `size` pixels, on a canvas of `side` pixels squared."""
    rng = np.random.default_rng(0)
    columns = int(np.ceil(np.sqrt(count)))
    step = side // columns
    assert step > size
    rows, columns_of_pixels = np.mgrid[:size, :size] - (size - 1) / 2
    kinds = [(rows**2 + (columns_of_pixels * stretch)**2 < (size / 2)**2).astype(np.uint8) for stretch in (1, 1.2, 1.5)]
    number = np.arange(count)
    boxes = np.column_stack([number % columns * step, number // columns * step, *np.full((2, count), size)])
    pixels = np.concatenate([kinds[i % 3].ravel() for i in range(count)])
    return Cells(LocalMasks(pixels, boxes, side, side), rng.integers(0, len(CLASSES), count),
                 rng.random(count).astype(np.float32))
