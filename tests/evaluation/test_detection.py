import doctest
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_map_scenes import (
    CLASSES,
    consep_scene,
    in_another_order,
    masks_of,
    of_class,
    pair_of,
    random_scene,
    scenes,
)

from cellseg_mm.evaluation import detection
from cellseg_mm.evaluation.detection import (
    centroid_table,
    centroids,
    f1_of_centroids,
    pair_centroids,
    precision_recall_f1,
)
from cellseg_mm.evaluation.panoptic import count_matches

NAN = np.nan


def detection_quality(pairs, classes, **options):
    counts = count_matches(pairs, len(classes))
    return detection.detection_quality(pairs, counts, classes, **options), counts


def dots(true, predicted, side=64):
    """A true and a predicted cell of one pixel at each (class, x, y)."""
    stacks, labels = [], []
    for cells in (true, predicted):
        stack = np.zeros((len(cells), side, side), bool)
        for mask, (_, x, y) in zip(stack, cells, strict=True):
            mask[y, x] = True
        stacks.append(stack)
        labels.append([label for label, _, _ in cells])
    return pair_of(*stacks, *labels)


def slow_table(scene, radius):
    """Every table of pairs of classes that an assignment of the smallest sum of distances gives."""
    sides = []
    for label_map, labels in (scene[::2], scene[1::2]):
        places = [np.argwhere(mask).mean(0) for mask in masks_of(label_map)]
        sides.append(list(zip(places, labels, strict=True)))
    few, many = sorted(sides, key=len)
    choices = [list(zip(few, chosen, strict=True)) for chosen in permutations(many, len(few))]
    lengths = np.array([sum(np.hypot(*(a - b)) for (a, _), (b, _) in pairs) for pairs in choices])
    for k in np.flatnonzero(lengths < lengths.min() + 1e-9):
        table = np.zeros((4, 4), int)
        for (a, first), (b, second) in choices[k]:
            if np.hypot(*(a - b)) <= radius:
                table[(first, second) if few is sides[0] else (second, first)] += 1
        for cells, margin in zip(sides, (table, table.T), strict=True):
            margin[:3, 3] = np.bincount([label for _, label in cells], minlength=3) - margin[:3, :3].sum(1)
        yield table


def slow_f1(pairs, table, label):
    """F_c of HoVer-Net by its sums over pairs and unpaired cells of a class."""
    both = sum(pairs[i, j] for i in range(3) for j in range(3) if i == label and j == label)
    only_true = sum(pairs[i, j] for i in range(3) for j in range(3) if i == label and j != label)
    only_predicted = sum(pairs[i, j] for i in range(3) for j in range(3) if i != label and j == label)
    whole = 2 * both + 2 * only_predicted + 2 * only_true + table[3, label] + table[label, 3]
    return 2 * both / whole if whole else NAN


def close(values):
    return pytest.approx(values, abs=1e-12, nan_ok=True)


@given(st.lists(scenes(), min_size=1, max_size=3))
def test_precision_recall_and_f1_count_the_cells_of_all_images(found):
    metrics, counts = detection_quality([pair_of(*scene) for scene in found], CLASSES)
    for label, suffix in (*enumerate(f'/{name}' for name in CLASSES), (None, '')):
        tp, true, predicted = 0, 0, 0
        for maps in found:
            sides = [of_class(maps[k], maps[2 + k], label) if suffix else maps[k] for k in range(2)]
            cells = [masks_of(side) for side in sides]
            tp += sum((t & p).sum() / (t | p).sum() > 0.5 for t in cells[0] for p in cells[1])
            true, predicted = true + len(cells[0]), predicted + len(cells[1])
        assert metrics[f'precision{suffix}'] == close(tp / predicted if predicted else NAN)
        assert metrics[f'recall{suffix}'] == close(tp / true if true else NAN)
        assert metrics[f'F1{suffix}'] == close(2 * tp / (true + predicted) if true + predicted else NAN)
        column = -1 if label is None else label
        assert [count[:, column].sum() for count in counts[:3]] == [tp, predicted - tp, true - tp]


@given(scenes(), st.sampled_from([0, 0.5, 1, 1.5, 2, 12]))
def test_centroids_are_paired_by_the_smallest_sum_of_distances_and_then_cut_at_the_radius(scene, radius):
    table = centroid_table(pair_of(*scene), 3, radius)
    tables = list(slow_table(scene, radius))
    assert any(np.array_equal(table, other) for other in tables)
    assert table[:3, :3].sum() == max(other[:3, :3].sum() for other in tables), 'of equal sums the one of most pairs'


@given(scenes(), st.integers(0, 1000))
def test_the_order_of_cells_changes_nothing(scene, seed):
    pair = pair_of(*scene)
    metrics = detection_quality([pair], CLASSES, radius=1.5)[0]
    assert detection_quality([in_another_order(pair, seed)], CLASSES, radius=1.5)[0] == close(metrics)


def test_the_order_of_images_changes_nothing():
    pairs = [pair_of(*random_scene(seed)) for seed in range(3)]
    assert detection_quality(pairs[::-1], CLASSES)[0] == close(detection_quality(pairs, CLASSES)[0])


def test_of_far_cells_a_close_pair_can_be_sacrificed_as_hovernet_does():
    # 5 px between the second cell and the first prediction, but with 45 px for the others; 20 + 20 is less.
    pair = dots([(0, 0, 0), (0, 25, 0)], [(0, 20, 0), (0, 45, 0)])
    assert [len(indices) for indices in pair_centroids(pair, radius=12)] == [0, 0]
    assert [indices.tolist() for indices in pair_centroids(pair, radius=20)] == [[0, 1], [0, 1]]
    assert detection_quality([pair], 'a')[0]['F1_centroid'] == 0


@pytest.mark.parametrize('turn', [1, -1])
def test_of_equal_sums_of_distances_the_one_of_more_pairs_is_taken(turn):
    # 20 + 20, of which none is near, or 0 + 40.
    pair = dots([(0, 0, 0), (0, 20, 0)][::turn], [(0, 20, 0), (0, 40, 0)][::turn])
    assert centroid_table(pair, 1).tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize('turn', [1, -1])
@pytest.mark.parametrize('label', [0, 1])
def test_of_cells_equally_far_the_one_of_the_same_class_is_paired(label, turn):
    pair = dots([(0, 0, 0), (1, 2, 0)][::turn], [(label, 1, 0)])
    assert centroid_table(pair, 2)[label, label] == 1


def test_of_cells_equally_far_and_of_other_classes_the_order_decides_nothing():
    for cells in ([(0, 0, 0), (1, 2, 0)], [(0, 0, 5), (1, 0, 3)]):
        tables = [centroid_table(dots(cells[::turn], [(2, *np.mean(cells, 0)[1:].astype(int))]), 3) for turn in (1, -1)]
        np.testing.assert_array_equal(*tables)


def test_the_radius_belongs_to_it():
    assert len(pair_centroids(dots([(0, 0, 0)], [(0, 12, 0)]))[0]) == 1
    assert len(pair_centroids(dots([(0, 0, 0)], [(0, 12, 1)]))[0]) == 0
    assert len(pair_centroids(dots([(0, 0, 0)], [(0, 12, 1)]), radius=12.1)[0]) == 1


def test_type_f1_worked_by_hand():
    # Two cells of class 0 right, one taken for class 1, one missed; one of class 1 right; a spurious one of class 1.
    true = [(0, 0, 0), (0, 10, 0), (0, 20, 0), (0, 60, 0), (1, 30, 0)]
    predicted = [(0, 0, 1), (0, 10, 1), (1, 20, 1), (1, 30, 1), (1, 0, 60)]
    metrics, _ = detection_quality([dots(true, predicted)], 'abc')
    assert metrics['F1_centroid'] == pytest.approx(2 * 4 / (2 * 4 + 1 + 1))
    assert metrics['F1_type/a'] == pytest.approx(2 * 2 / (2 * 2 + 2 * 0 + 2 * 1 + 0 + 1))
    assert metrics['F1_type/b'] == pytest.approx(2 * 1 / (2 * 1 + 2 * 1 + 2 * 0 + 1 + 0))
    assert np.isnan(metrics['F1_type/c'])


@given(st.lists(st.integers(0, 6), min_size=16, max_size=16))
def test_type_f1_is_hovernets_sum_of_weighted_errors(numbers):
    table = np.array(numbers).reshape(4, 4)
    table[3, 3] = 0
    f1, of_types = f1_of_centroids(table)
    assert of_types == close([slow_f1(table[:3, :3], table, label) for label in range(3)])
    paired, unpaired = table[:3, :3].sum(), table[:, 3].sum() + table[3].sum()
    assert f1 == close(2 * paired / (2 * paired + unpaired) if paired + unpaired else NAN)


def test_a_perfect_prediction_scores_one_even_for_cells_around_each_other():
    ring, core = np.ones((5, 5), bool), np.zeros((5, 5), bool)
    core[1:4, 1:4] = True
    masks = np.array([ring & ~core, core])
    for order in ([0, 1], [1, 0]):
        metrics, _ = detection_quality([pair_of(masks, masks[order], [0, 1], order)], 'ab')
        assert set(metrics.values()) == {1.0}


@pytest.mark.parametrize(('true', 'predicted', 'expected'), [
    ([], [], (NAN, NAN, NAN)), ([(0, 3, 3)], [], (NAN, 0, 0)), ([], [(0, 3, 3)], (0, NAN, 0)),
    ([(0, 3, 3)], [(0, 3, 3)], (1, 1, 1))])
def test_what_is_undefined_is_nan(true, predicted, expected):
    metrics, _ = detection_quality([dots(true, predicted)], 'ab')
    for suffix in ('', '/a'):
        assert [metrics[name + suffix] for name in ('precision', 'recall', 'F1')] == close(expected)
    assert [metrics['F1_centroid'], metrics['F1_type/a']] == close([expected[2]] * 2)
    assert np.isnan([metrics[f'{name}/b'] for name in ('precision', 'recall', 'F1', 'F1_type')]).all()


def test_an_image_without_predictions_is_not_given_one_at_its_corner():
    metrics, _ = detection_quality([dots([(0, 0, 0)], []), dots([(0, 9, 9)], [(0, 9, 9)])], 'a')
    assert metrics['F1_centroid'] == pytest.approx(2 / (2 + 1))


def test_no_images_have_no_quality():
    metrics, counts = detection_quality([], 'ab')
    assert np.isnan(list(metrics.values())).all()
    assert counts.tp.shape == (0, 3)


def test_a_class_that_is_only_predicted_counts_against_the_prediction():
    metrics, _ = detection_quality([dots([(0, 3, 3)], [(1, 3, 3)])], 'ab')
    assert (metrics['F1'], metrics['F1/a'], metrics['F1/b']) == (1, 0, 0)
    assert (metrics['F1_centroid'], metrics['F1_type/a'], metrics['F1_type/b']) == (1, 0, 0)


@given(scenes())
def test_centroids_are_centres_of_mass(scene):
    expected = [np.argwhere(mask).mean(0)[::-1] for mask in masks_of(scene[0])]
    np.testing.assert_allclose(centroids(pair_of(*scene).truth.masks), np.reshape(expected, (-1, 2)))


def test_a_mask_without_pixels_is_paired_with_nothing():
    nothing = pair_of(np.zeros((1, 4, 4), bool), np.ones((1, 4, 4), bool))
    assert np.isnan(centroids(nothing.truth.masks)).all()
    assert centroid_table(nothing, 1).tolist() == [[0, 1], [1, 0]]


def test_a_thousand_cells_in_an_image_are_all_paired():
    rng = np.random.default_rng(0)
    places = rng.permutation(40 * 40)[:1000]
    label_map = np.zeros((800, 800), int)
    for number, (row, column) in enumerate(zip(*np.divmod(places, 40), strict=True), 1):
        label_map[20 * row + 2:20 * row + 14, 20 * column + 2:20 * column + 14] = number
    pair = pair_of(label_map, np.roll(label_map, (3, 2), (0, 1)))
    i, j = pair_centroids(pair)
    assert i[np.argsort(i)].tolist() == j[np.argsort(i)].tolist() == list(range(1000))


def test_the_examples_in_the_module_hold():
    results = doctest.testmod(detection)
    assert results.attempted
    assert not results.failed


def assert_agrees_with_cellseg_metrics(scene):
    reference = pytest.importorskip('cellseg_metrics')
    metrics, _ = detection_quality([pair_of(*scene)], CLASSES)
    true, predicted = scene[:2]
    # What it calls average precision is the precision of the matches at IoU 0.5; transposed, it is the recall.
    assert metrics['precision'] == pytest.approx(reference.average_precision(true, predicted), abs=1e-6)
    assert metrics['recall'] == pytest.approx(reference.average_precision(predicted, true), abs=1e-6)
    assert metrics['F1'] == pytest.approx(reference.panoptic_quality(true, predicted)['dq'], abs=1e-6)


def test_it_agrees_with_cellseg_metrics():
    for seed in range(5):
        assert_agrees_with_cellseg_metrics(random_scene(seed, 64, 20))


def test_on_real_tissue_it_agrees_with_cellseg_metrics():
    assert_agrees_with_cellseg_metrics(consep_scene(4))


# Precision, recall and F1 of stardist 0.9.2's `matching(true, predicted)` on `random_scene`.
STARDIST = {
    0: [20 / 33, 20 / 35, 0.5882352941176471],
    1: [20 / 34, 20 / 33, 0.5970149253731343],
    2: [24 / 35, 24 / 37, 0.6666666666666666],
    3: [24 / 35, 24 / 35, 0.6857142857142857],
}


@pytest.mark.parametrize('seed', STARDIST)
def test_it_agrees_with_what_stardist_gave(seed):
    metrics, _ = detection_quality([pair_of(*random_scene(seed))], CLASSES)
    assert [metrics[name] for name in ('precision', 'recall', 'F1')] == close(STARDIST[seed])


def test_it_agrees_with_stardist():
    matching = pytest.importorskip('stardist.matching')
    found = [random_scene(seed) for seed in range(5)]
    metrics, _ = detection_quality([pair_of(*scene) for scene in found], CLASSES)
    pooled = matching.matching_dataset(*zip(*(scene[:2] for scene in found), strict=True), show_progress=False)
    assert [pooled.precision, pooled.recall, pooled.f1] == close([metrics[n] for n in ('precision', 'recall', 'F1')])


def test_figures_of_many_images_come_at_once():
    precision, recall, f1 = precision_recall_f1(np.array([[1, 0]]), np.array([[1, 0]]), np.array([[0, 0]]))
    assert [precision.tolist(), recall.tolist(), f1.tolist()] == [
        [[0.5, close(NAN)]], [[1, close(NAN)]], [[pytest.approx(2 / 3), close(NAN)]]]
