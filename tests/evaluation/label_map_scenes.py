"""Label maps of true and predicted cells with their classes, and images made of them, for tests of metrics."""
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from cellseg_mm.evaluation.instances import ImagePair, Instances
from cellseg_mm.structures.local_masks import LocalMasks

CLASSES = 'a', 'b', 'c'


def pair_of(true, predicted, true_labels=None, predicted_labels=None):
    """An image of two label maps or stacks of masks; labels by ascending id, all 0 by default."""
    cells = []
    for masks, labels in ((true, true_labels), (predicted, predicted_labels)):
        masks = np.asarray(masks)
        masks = LocalMasks.from_label_map(masks) if masks.ndim == 2 else LocalMasks.from_bitmaps(masks)
        count = len(masks)
        labels = np.zeros(count, np.int64) if labels is None else np.array(labels, np.int64)
        cells.append(Instances(masks, labels, np.ones(count), masks.boxes.astype(float), *np.zeros((2, count), bool)))
    return ImagePair(1, 'image', 'group', None, *cells)


def ids_of(label_map):
    return [number for number in np.unique(label_map).tolist() if number]


def masks_of(label_map):
    return [label_map == number for number in ids_of(label_map)]


def of_class(label_map, labels, wanted):
    """The label map without the cells of other classes."""
    kept = [number for number, label in zip(ids_of(label_map), labels, strict=True) if label == wanted]
    return np.where(np.isin(label_map, kept), label_map, 0)


def in_another_order(pair, seed):
    """The same image with its cells listed otherwise."""
    rng = np.random.default_rng(seed)
    cells = [cells[rng.permutation(len(cells))] for cells in (pair.truth, pair.predicted)]
    return ImagePair(pair.image_id, pair.name, pair.group, pair.mpp, *cells)


@st.composite
def scenes(draw, cells=4):
    """Two label maps, with gaps in their ids, and the labels of their cells by ascending id."""
    shape = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    maps = [draw(arrays(np.int64, shape, elements=st.integers(0, cells))) for _ in range(2)]
    labels = [draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)) for n in (len(ids_of(m)) for m in maps)]
    return *(3 * label_map for label_map in maps), *labels


def random_scene(seed, side=96, count=40):
    """As `scenes`, of ellipses, most of which are found, moved by some pixels and of the right class."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    true, predicted = np.zeros((2, side, side), np.int64)
    true_classes, predicted_classes = {}, {}
    for number in range(1, count + 1):
        (y, x), (b, a) = rng.random(2) * side, 3 + 6 * rng.random(2)
        dy, dx, db, da = rng.normal(0, 1.2, 4)
        label, fate = int(rng.integers(3)), rng.random()
        if fate > 0.1:
            true[((rows - y) / b) ** 2 + ((columns - x) / a) ** 2 <= 1] = number
            true_classes[number] = label
        if fate < 0.85:
            predicted[((rows - y - dy) / (b + db)) ** 2 + ((columns - x - dx) / (a + da)) ** 2 <= 1] = number
            predicted_classes[number] = label if fate < 0.6 else (label + 1) % 3
    return true, predicted, [true_classes[n] for n in ids_of(true)], [predicted_classes[n] for n in ids_of(predicted)]


def consep_scene(tile, side=240):
    """As `scenes`, a part of a CoNSeP test tile, and the same moved, with cells dropped, merged and misclassified."""
    if 'CELLSEG_REAL_DATA' not in os.environ:
        pytest.skip('CELLSEG_REAL_DATA is not set')
    rng = np.random.default_rng(tile)
    files = (Path(os.environ['CELLSEG_REAL_DATA'], f'consep/{kind}/test/test_{tile}.png')
             for kind in ('instances', 'classes'))
    whole, classes = (np.asarray(Image.open(file)).astype(np.int64) for file in files)
    true, predicted = whole[:side, :side], np.roll(whole, (1, 2), (0, 1))[:side, :side]
    of_ids = {number: min(int(classes[whole == number].max()) - 1, 2)
              for number in np.union1d(ids_of(true), ids_of(predicted)).tolist()}
    dropped, merged, changed, *_ = np.array_split(rng.permutation(ids_of(true)), 10)
    predicted = np.where(np.isin(predicted, dropped), 0, predicted)
    for number in merged:
        touched = np.unique(true[np.roll(true == number, 3, 1)])
        predicted[np.isin(predicted, touched[touched > 0])] = number
    return (true, predicted, [of_ids[number] for number in ids_of(true)],
            [(of_ids[number] + (number in changed)) % 3 for number in ids_of(predicted)])
