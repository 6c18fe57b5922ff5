"""Images of rectangular cells, to work metrics out by hand."""
import numpy as np

from cellseg_mm.evaluation.instances import ImagePair, Instances
from cellseg_mm.structures.local_masks import LocalMasks

SIZE = 60, 80


def instances(cells):
    """Of (label, [x, y, w, h], score, ignore), the latter two optional."""
    cells = [(*cell, *(1.0, False)[len(cell) - 2:]) for cell in cells]
    labels, boxes, scores, ignore = zip(*cells, strict=True) if cells else ((), ) * 4
    boxes = np.array(boxes, np.int32).reshape(-1, 4)
    masks = LocalMasks(np.ones(boxes[:, 2:].prod(1, dtype=int).sum(), np.uint8), boxes, *SIZE)
    return Instances(masks, np.array(labels, np.int64), np.array(scores, np.float64), boxes.astype(np.float64),
                     np.zeros(len(boxes), bool), np.array(ignore, bool))


def pair(truth, predicted, image_id=1):
    return ImagePair(image_id, f'{image_id}.png', f'image {image_id}', None, instances(truth), instances(predicted))


def random_pairs(seed, images=3, classes=3, cells=12, predictions=40, ignored=0.0, once=False, tenths=False):
    """Cells on a grid and predictions of cells moved, resized, relabelled, repeated, or of nothing.

    With `once`, each cell is predicted once at most; with `tenths`, many scores are equal.
    """
    rng = np.random.default_rng(seed)
    pairs = []
    for image_id in range(1, images + 1):
        places = rng.permutation(20)[:rng.integers(cells // 2, min(cells, 20) + 1)]
        truth = [(int(rng.integers(classes)), [2 + 15 * int(place % 5), 1 + 15 * int(place // 5),
                                               *map(int, rng.integers(5, 11, 2))],
                  1.0, bool(rng.random() < ignored)) for place in places]
        predicted = []
        number = rng.integers(predictions // 2, predictions + 1)
        for cell in range(min(number, len(truth))) if once else rng.integers(len(truth), size=number):
            label, (x, y, w, h), *_ = truth[cell]
            if rng.random() < 0.2:
                x, y = map(int, rng.integers(0, 45, 2))
            if rng.random() < 0.25:
                label = int(rng.integers(classes))
            x, y = (max(0, place + int(step)) for place, step in zip((x, y), rng.integers(-2, 3, 2), strict=True))
            w, h = (max(2, side + int(step)) for side, step in zip((w, h), rng.integers(-2, 3, 2), strict=True))
            score = rng.random()
            predicted.append((label, [x, y, w, h], round(score, 1) if tenths else score))
        pairs.append(pair(truth, predicted, image_id))
    return pairs
