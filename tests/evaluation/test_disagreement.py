from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cellseg_mm.evaluation.disagreement import disagreement
from cellseg_mm.evaluation.instances import ImagePair, Instances
from cellseg_mm.structures.local_masks import LocalMasks


def cells(label_map, labels):
    """A cell for each id of a label map, so that none overlap; classes by id."""
    ids = np.unique(label_map[label_map > 0])
    masks = LocalMasks.from_bitmaps(np.array([label_map == i for i in ids]).reshape(-1, *label_map.shape))
    count = len(ids)
    return Instances(masks, np.array([labels[i - 1] for i in ids], np.int64), np.ones(count),
                     masks.boxes.astype(float), np.zeros(count, bool), np.zeros(count, bool))


def seen(label_map, labels=(0, 1, 0, 1)):
    label_map = np.asarray(label_map)
    return ImagePair(1, 'image.tif', 'a', None, cells(np.zeros_like(label_map), labels), cells(label_map, labels))


def slow_disagreement(maps, labels):
    values = []
    for (first, of_first), (second, of_second) in combinations(zip(maps, labels, strict=True), 2):
        ids = [sorted(set(label_map[label_map > 0].tolist())) for label_map in (first, second)]
        # Above an IoU of 0.5 a cell has one partner at most.
        shared = sum(((first == i) & (second == j)).sum() > 0.5 * ((first == i) | (second == j)).sum()
                     and of_first[i - 1] == of_second[j - 1] for i in ids[0] for j in ids[1])
        total = len(ids[0]) + len(ids[1])
        values.append(1 - 2 * shared / total if total else 0)
    return np.mean(values)


@given(st.integers(2, 4).flatmap(lambda models: st.tuples(*(
    arrays(np.int64, (models, *shape), elements=st.integers(0, most)) for shape, most in (((4, 5), 4), ((4, ), 1))))))
def test_it_is_the_mean_of_1_minus_f1_over_pairs_of_models(drawn):
    maps, labels = drawn
    found = disagreement([seen(*each) for each in zip(maps, labels, strict=True)])
    assert found == pytest.approx(slow_disagreement(maps, labels))


def test_models_that_see_the_same_cells_or_none_agree():
    assert disagreement([seen([[1, 1, 2]])] * 3) == 0
    assert disagreement([seen([[0, 0, 0]])] * 2) == 0


def test_a_model_that_sees_nothing_or_another_class_shares_no_cell():
    assert disagreement([seen([[1, 1, 2]]), seen([[0, 0, 0]])]) == 1
    assert disagreement([seen([[1, 1, 0]]), seen([[2, 2, 0]])]) == 1


def test_one_model_alone_has_nobody_to_disagree_with():
    assert np.isnan(disagreement([seen([[1, 1, 2]])]))
