"""Random truth and predictions in COCO form."""
import numpy as np

from cellseg_mm.evaluation.instances import results_of
from cellseg_mm.structures.local_masks import LocalMasks

CLASSES = 'round', 'long', 'rare'


def discs(rng, count, size):
    """Masks of `count` discs, some of which overlap."""
    y, x = np.ogrid[:size[0], :size[1]]
    return LocalMasks.from_bitmaps(np.array([
        (y - rng.integers(size[0]))**2 + (x - rng.integers(size[1]))**2 < rng.integers(9, 60)
        for _ in range(count)], bool).reshape(-1, *size))


def random_scene(seed, images=6, cells=12, quality=0.8, size=(60, 70)):
    """Truth and results: `quality` of the cells are found, somewhat moved, and now and then under another class."""
    rng = np.random.default_rng(seed)
    truth, results = [], []
    for image_id in range(1, images + 1):
        masks = discs(rng, rng.integers(cells + 1), size)
        labels = rng.choice(3, len(masks), p=(0.6, 0.3, 0.1))
        truth += results_of(image_id, masks, (labels + 1).tolist(), [1.0] * len(masks))
        chosen = rng.random(len(masks)) < quality
        more = discs(rng, rng.integers(4), size)
        found = LocalMasks.cat([masks[chosen].translate(size, int(rng.integers(-1, 2))), more])
        guesses = np.append(labels[chosen], np.zeros(len(more), int))
        guesses = np.where(rng.random(len(guesses)) < 0.1, rng.integers(3, size=len(guesses)), guesses)
        kept = found.boxes[:, 2] > 0
        scores = rng.random(len(found)).round(2)[kept].tolist()
        results += results_of(image_id, found[kept], (guesses[kept] + 1).tolist(), scores)
    return {'images': [{'id': i, 'file_name': f'{i}.tif', 'height': size[0], 'width': size[1], 'group': f'g{i % 3}'}
                       for i in range(1, images + 1)],
            'annotations': [{'id': i, **cell} for i, cell in enumerate(truth, 1)],
            'categories': [{'id': i, 'name': name} for i, name in enumerate(CLASSES, 1)]}, results
