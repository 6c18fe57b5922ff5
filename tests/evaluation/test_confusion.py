from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rectangles import SIZE, pair, random_pairs

from cellseg_mm.evaluation.confusion import confusion_matrix, judge

CELL, WELL, HALF, FAR = [10, 10, 10, 10], [10, 10, 10, 9], [10, 10, 10, 5], [50, 40, 10, 10]


def obvious_matrix(pairs, num_classes):
    """On label maps of whole images, one true cell after another."""
    matrix = np.zeros((num_classes + 1, num_classes + 1), int)
    for image in pairs:
        found = set()
        true_map, predicted_map = (np.zeros((2, *SIZE), int))
        for cells, of in ((image.truth, true_map), (image.predicted, predicted_map)):
            for number, (x, y, bitmap) in enumerate(cells.masks.crops(), 1):
                height, width = bitmap.shape
                of[y:y + height, x:x + width][bitmap > 0] = number
        for i, label in enumerate(image.truth.labels, 1):
            partners = [j for j in range(1, len(image.predicted) + 1) if
                        ((true_map == i) & (predicted_map == j)).sum()
                        > ((true_map == i) | (predicted_map == j)).sum() / 2]
            matrix[label, image.predicted.labels[partners[0] - 1] if partners else num_classes] += 1
            found.update(partners)
        for j, label in enumerate(image.predicted.labels, 1):
            matrix[num_classes, label] += j not in found
    return matrix


def test_each_kind_of_cell_has_its_place():
    truth = [(0, CELL), (1, FAR), (1, [30, 10, 5, 5])]
    predicted = [(0, WELL), (0, FAR), (1, [70, 0, 5, 5])]
    expected = [[1, 0, 0],
                [1, 0, 1],
                [0, 1, 0]]
    matrix = confusion_matrix([pair(truth, predicted)], 2)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == expected
    assert confusion_matrix([pair(truth, predicted)] * 3, 2).tolist() == (3 * matrix).tolist()
    assert judge(pair(truth, predicted)) == (['found', 'confused', 'missed'], ['right', 'confused', 'spurious'])


def test_half_an_overlap_is_no_match():
    image = pair([(0, CELL)], [(0, HALF)])
    assert confusion_matrix([image], 1).tolist() == [[0, 1], [1, 0]]
    assert judge(image) == (['missed'], ['spurious'])


@pytest.mark.parametrize(('truth', 'predicted', 'expected', 'judgement'), [
    ([], [], [[0, 0], [0, 0]], ([], [])),
    ([(0, CELL)], [], [[0, 1], [0, 0]], (['missed'], [])),
    ([], [(0, CELL)], [[0, 0], [1, 0]], ([], ['spurious']))])
def test_empty_images(truth, predicted, expected, judgement):
    assert confusion_matrix([pair(truth, predicted)], 1).tolist() == expected
    assert judge(pair(truth, predicted)) == judgement


def test_without_images_the_matrix_is_zero():
    assert confusion_matrix([], 2).tolist() == np.zeros((3, 3), int).tolist()


@given(st.integers(0, 10**6), st.sampled_from([0, 0.5]))
@settings(max_examples=40)
def test_matrix_is_that_of_label_maps_and_agrees_with_judgements(seed, threshold):
    pairs = [image.confident(np.full(3, threshold)) for image in random_pairs(seed, images=2, ignored=0.1)]
    matrix = confusion_matrix(pairs, 3)
    assert matrix.tolist() == obvious_matrix(pairs, 3).tolist()
    assert matrix[:3].sum(1).tolist() == sum(np.bincount(image.truth.labels, minlength=3) for image in pairs).tolist()
    assert matrix[:, :3].sum(0).tolist() == sum(
        np.bincount(image.predicted.labels, minlength=3) for image in pairs).tolist()
    truth, predicted = Counter(), Counter()
    for image in pairs:
        of_truth, of_predicted = judge(image)
        assert len(of_truth) == len(image.truth)
        assert len(of_predicted) == len(image.predicted)
        truth.update(of_truth)
        predicted.update(of_predicted)
    confused = matrix[:3, :3].sum() - np.trace(matrix)
    assert [truth[status] for status in ('found', 'confused', 'missed')] == [
        np.trace(matrix), confused, matrix[:, 3].sum()]
    assert [predicted[status] for status in ('right', 'confused', 'spurious')] == [
        np.trace(matrix), confused, matrix[3].sum()]


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_order_is_of_no_account(seed):
    pairs, rng = [image.confident(np.zeros(3)) for image in random_pairs(seed)], np.random.default_rng(seed)
    shuffled = [replace(image, truth=image.truth[rng.permutation(len(image.truth))],
                        predicted=image.predicted[rng.permutation(len(image.predicted))]) for image in pairs[::-1]]
    assert confusion_matrix(shuffled, 3).tolist() == confusion_matrix(pairs, 3).tolist()
