import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cellseg_mm.datasets.splits import (
    LARGEST_GROUP,
    appearance_features,
    fold_groups,
    group_by_appearance,
    largest_group,
    split_groups,
)
from cellseg_mm.errors import UserError

FEW = settings(max_examples=60, deadline=None)


@st.composite
def grouped_cells(draw, max_groups=7, max_images=14, max_classes=5):
    """Groups of images (N,) of at least two, and sparse cell counts (N, K)."""
    count = draw(st.integers(2, max_groups))
    groups = list(range(count)) + draw(st.lists(st.integers(0, count - 1), max_size=max_images - count))
    classes = draw(st.integers(0, max_classes))
    cells = st.sampled_from((0, 0, 0, 1, 2, 40))
    counts = draw(st.lists(st.lists(cells, min_size=classes, max_size=classes),
                           min_size=len(groups), max_size=len(groups)))
    return np.array(groups), np.array(counts, np.int64).reshape(len(groups), classes)


def on_both_sides(counts, val):
    return (counts[val] > 0).any(0) & (counts[~val] > 0).any(0)


def all_splits(groups):
    names = np.unique(groups)
    for sides in itertools.product((False, True), repeat=len(names)):
        if any(sides) and not all(sides):
            yield np.array(sides)[np.searchsorted(names, groups)]


def deviation(counts, val, fraction):
    held = np.column_stack([np.ones(len(val)), counts[:, counts.any(0)]])
    share = held[val].sum(0) / held.sum(0)
    return ((share / fraction - 1) ** 2 + ((1 - share) / (1 - fraction) - 1) ** 2).sum()


def canonical(labels):
    """The partition behind labels: the first index that has the same label."""
    return np.unique(labels, return_index=True)[1][np.unique(labels, return_inverse=True)[1]]


def is_whole(groups, parts):
    return all(len(np.unique(parts[groups == group])) == 1 for group in np.unique(groups))


# Splits


@FEW
@given(grouped_cells(), st.sampled_from((0.05, 0.15, 0.5, 0.8)), st.integers(0, 3))
def test_as_many_classes_as_possible_are_on_both_sides_and_groups_stay_whole(data, fraction, seed):
    groups, counts = data
    val = split_groups(groups, counts, fraction, seed)
    assert val.dtype == bool
    assert val.shape == groups.shape
    assert is_whole(groups, val)
    assert val.any()
    assert not val.all()
    assert on_both_sides(counts, val).sum() == max(on_both_sides(counts, other).sum() for other in all_splits(groups))


def test_where_not_all_classes_can_be_on_both_sides_the_rare_ones_are():
    # Three groups, each lacking another class: two of them are on one side, so one class is only there.
    for common in range(3):
        counts = 1 - np.eye(3, dtype=np.int64)
        counts[:, common] *= 100
        for seed in range(5):
            both = on_both_sides(counts, split_groups([0, 1, 2], counts, 0.33, seed))
            assert both.tolist() == [k != common for k in range(3)]


def test_a_split_that_local_moves_miss_is_still_found():
    # Each class is in two groups. Three classes form a triangle, so nine of the ten are the most; moves end with eight.
    pairs = ((0, 1), (6, 7), (5, 9), (7, 9), (2, 5), (2, 9), (3, 6), (2, 3), (1, 2), (2, 8))
    cells = ((5, 1), (50, 50), (400, 5), (400, 1), (1, 5), (1, 400), (400, 50), (1, 5), (1, 1), (5, 400))
    counts = np.zeros((10, 10), np.int64)
    for k in range(10):
        counts[pairs[k], k] = cells[k]
    assert on_both_sides(counts, split_groups(np.arange(10), counts, 0.05, 0)).sum() == 9


def test_a_chain_of_groups_that_two_splits_alone_satisfy_is_solved():
    counts = np.zeros((16, 15), np.int64)
    counts[np.arange(15), np.arange(15)] = counts[np.arange(1, 16), np.arange(15)] = 1
    counts = counts[np.random.default_rng(0).permutation(16)]
    for fraction in (0.05, 0.5):
        assert on_both_sides(counts, split_groups(np.arange(16), counts, fraction, 0)).all()


def test_a_class_in_one_group_does_not_upset_the_split():
    counts = np.ones((20, 2), np.int64)
    counts[1:, 1] = 0
    assert split_groups(np.arange(20), counts, 0.15, 0).sum() == 3


def test_small_splits_are_about_as_balanced_as_the_best():
    rng = np.random.default_rng(0)
    excess = []
    for seed in range(30):
        groups = np.r_[np.arange(9), rng.integers(0, 9, 21)]
        counts = rng.poisson(rng.exponential(20, (30, 3)))
        best = min(deviation(counts, val, 0.2) for val in all_splits(groups) if on_both_sides(counts, val).all())
        excess.append(deviation(counts, split_groups(groups, counts, 0.2, seed), 0.2) / best)
    assert min(excess) > 1 - 1e-9
    assert np.median(excess) < 1 + 1e-9
    assert max(excess) < 1.5


def test_shares_of_images_and_of_each_class_are_near_the_fraction():
    rng = np.random.default_rng(0)
    groups = np.r_[np.arange(50), rng.integers(0, 50, 159)]
    counts = rng.poisson(rng.exponential((70, 75, 3, 3), (209, 4)))
    val = split_groups(groups, counts, 0.15, 0)
    assert abs(val.mean() / 0.15 - 1) < 0.1
    assert np.abs(counts[val].sum(0) / counts.sum(0) / 0.15 - 1).max() < 0.1


@FEW
@given(grouped_cells(), st.randoms(use_true_random=False))
def test_a_split_does_not_depend_on_the_order_of_images(data, random):
    groups, counts = data
    order = np.array(random.sample(range(len(groups)), len(groups)))
    for share_out, number in ((split_groups, 0.15), (fold_groups, len(np.unique(groups)))):
        parts = share_out(groups, counts, number, 3)
        assert np.array_equal(share_out(groups[order], counts[order], number, 3), parts[order])


def test_renaming_groups_that_differ_changes_nothing():
    rng = np.random.default_rng(0)
    groups = np.r_[np.arange(12), rng.integers(0, 12, 40)]
    counts = rng.poisson(30, (52, 4))
    names = np.array([f'patient {number}' for number in rng.permutation(12)])
    assert np.array_equal(split_groups(groups, counts, 0.2, 1), split_groups(names[groups], counts, 0.2, 1))


def test_seeds_give_other_splits_where_many_are_good():
    counts = np.random.default_rng(0).poisson(30, (200, 4))
    splits = [split_groups(np.arange(200), counts, 0.15, seed) for seed in (0, 0, 1)]
    assert np.array_equal(splits[0], splits[1])
    assert not np.array_equal(splits[0], splits[2])


@pytest.mark.parametrize('fraction', [0, 1, -0.1, 1.5, float('nan')])
def test_a_fraction_that_leaves_a_side_empty_is_refused(fraction):
    with pytest.raises(UserError, match='give one between 0 and 1'):
        split_groups([0, 1], np.ones((2, 1)), fraction, 0)


def test_one_group_cannot_be_split():
    with pytest.raises(UserError, match='one group, which cannot be split: add'):
        split_groups([7, 7, 7], np.ones((3, 1)), 0.15, 0)


# Folds


@FEW
@given(grouped_cells(max_groups=9), st.data())
def test_folds_are_whole_and_none_is_empty(data, draw):
    groups, counts = data
    folds = draw.draw(st.integers(2, len(np.unique(groups))))
    fold = fold_groups(groups, counts, folds, 0)
    assert fold.dtype == np.int64
    assert is_whole(groups, fold)
    assert np.array_equal(np.unique(fold), np.arange(folds))


def test_folds_are_alike_in_images_and_cells_of_each_class():
    rng = np.random.default_rng(0)
    groups = np.r_[np.arange(60), rng.integers(0, 60, 149)]
    counts = rng.poisson(rng.exponential((70, 75, 3, 3), (209, 4)))
    fold = fold_groups(groups, counts, 5, 0)
    for k in range(5):
        assert abs((fold == k).mean() / 0.2 - 1) < 0.1
        assert np.abs(counts[fold == k].sum(0) / counts.sum(0) / 0.2 - 1).max() < 0.1


def test_each_fold_trains_and_validates_on_a_rare_class_if_the_groups_allow_it():
    counts = np.zeros((40, 2), np.int64)
    counts[:, 0] = 50
    counts[:5, 1] = 1, 1, 1, 1, 90
    fold = fold_groups(np.arange(40), counts, 5, 0)
    assert sorted(fold[:5]) == [0, 1, 2, 3, 4]


def test_more_folds_than_groups_are_refused():
    with pytest.raises(UserError, match='2 groups of images cannot fill 3 folds: ask for 2 or fewer'):
        fold_groups([0, 0, 1], np.ones((3, 1)), 3, 0)
    with pytest.raises(UserError, match='two or more'):
        fold_groups([0, 0, 1], np.ones((3, 1)), 1, 0)


def test_thousands_of_images_split_in_seconds():
    rng = np.random.default_rng(0)
    counts = rng.poisson(20, (1500, 4))
    start = time.perf_counter()
    split_groups(np.arange(1500), counts, 0.15, 0)
    fold_groups(np.arange(1500), counts, 5, 0)
    group_by_appearance(rng.normal(size=(1500, 115)))
    assert time.perf_counter() - start < 20


# Appearance


def slide(rng):
    """The colours of a slide: haematoxylin and eosin (2, 3) in optical density, BGR."""
    return np.array([[0.29, 0.70, 0.65], [0.11, 0.99, 0.07]]) + rng.normal(0, 0.07, (2, 3))


def crop(rng, stains, height, width, glass):
    """Tissue of random content, and a share of glass on the left, uint8 (height, width, 3)."""
    texture = ndimage.gaussian_filter(rng.normal(size=(2, height, width)), (0, 4, 4), mode='wrap')
    nuclei, pink = texture / texture.std(axis=(1, 2), keepdims=True)
    amounts = np.stack([0.9 * (nuclei > rng.uniform(0, 1.2)) + 0.1, 0.3 + 0.05 * pink], -1)
    amounts[:, :int(glass * width)] = 0
    return (245 * 10 ** -(amounts @ stains).clip(0)).round().astype(np.uint8)


def features_of_slides(count, crops, seed=0):
    rng = np.random.default_rng(seed)
    images = [crop(rng, stains, *rng.integers(60, 400, 2), rng.choice([0, 0.3, 0.6]))
              for stains in [slide(rng) for _ in range(count)] for _ in range(crops)]
    return np.stack([appearance_features(image) for image in images]), np.repeat(np.arange(count), crops)


def test_crops_of_one_slide_are_grouped_and_no_group_is_large():
    features, slides = features_of_slides(12, 5)
    groups = group_by_appearance(features)
    assert np.bincount(groups).max() <= LARGEST_GROUP * len(groups)
    parted = [len(np.unique(groups[slides == number])) > 1 for number in range(12)]
    assert sum(parted) <= 1


def test_groups_do_not_depend_on_the_order_of_images():
    features, _ = features_of_slides(6, 4)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(features))
        groups = group_by_appearance(features)[order]
        assert np.array_equal(canonical(group_by_appearance(features[order])), canonical(groups))


@pytest.mark.parametrize('count', [0, 1, 2, 3, 5, 40])
def test_groups_are_numbered_from_zero_however_few_the_images(count):
    groups = group_by_appearance(np.random.default_rng(0).normal(size=(count, 115)))
    assert groups.dtype == np.int64
    assert groups.shape == (count,)
    assert np.array_equal(np.unique(groups), np.arange(groups.max(initial=-1) + 1))
    assert np.bincount(groups).max(initial=0) <= largest_group(count)


def test_groups_leave_three_to_choose_from_and_hold_a_usual_share_of_many_images():
    assert [largest_group(count) for count in (1, 2, 3, 4, 6, 9, 12, 14, 30, 80)] == [1, 1, 1, 2, 2, 3, 4, 5, 5, 12]
    # No two groups hold everything.
    assert all(2 * largest_group(count) < count for count in (3, *range(5, 200)))


@pytest.mark.parametrize(('slides', 'crops'), [(2, 2), (3, 2), (3, 3), (3, 4), (4, 3), (7, 2), (6, 5)])
def test_few_crops_of_one_slide_are_grouped_too_and_leave_a_split(slides, crops):
    parted = []
    for seed in range(3):
        features, truth = features_of_slides(slides, crops, seed)
        groups = group_by_appearance(features)
        assert groups.max() >= min(slides, 3) - 1
        parted += [len(np.unique(groups[truth == number])) > 1 for number in range(slides)]
    # Stains are drawn at random: now and then two are alike.
    assert np.mean(parted) < 0.12


def test_images_that_look_the_same_are_one_group():
    assert not group_by_appearance(np.tile(appearance_features(np.full((9, 9, 3), 200, np.uint8)), (30, 1))).any()
    features = np.repeat(features_of_slides(5, 1)[0], (1, 2, 20, 1, 4), axis=0)
    groups = group_by_appearance(features)
    assert is_whole(np.repeat(np.arange(5), (1, 2, 20, 1, 4)), groups)
    assert groups.max() > 0


@pytest.mark.parametrize('shape', [(1, 1), (1, 700), (2, 1), (3, 3), (1500, 2)])
@pytest.mark.parametrize('value', [0, 128, 255])
def test_features_are_finite_for_flat_images_of_any_size(shape, value):
    features = appearance_features(np.full((*shape, 3), value, np.uint8))
    assert np.isfinite(features).all()
    assert features.shape == appearance_features(np.zeros((64, 64, 3), np.uint8)).shape
    np.testing.assert_allclose(features, appearance_features(np.full((5, 5, 3), value, np.uint8)))


@FEW
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_features_are_finite_for_noise_of_any_size(height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert np.isfinite(appearance_features(image)).all()


def test_glass_around_the_tissue_changes_nothing():
    rng = np.random.default_rng(0)
    image = crop(rng, slide(rng), 50, 60, 0)
    bordered = np.full((50, 120, 3), 255, np.uint8)
    bordered[:, 60:] = image
    whole, *quarters = appearance_features(bordered).reshape(5, -1)
    np.testing.assert_allclose(whole, appearance_features(image).reshape(5, -1)[0])
    for bare in (0, 2):
        assert np.array_equal(quarters[bare], whole)


def test_features_of_a_large_image_take_no_longer_than_its_density():
    image = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), dtype=np.uint8)

    def fastest(function):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        return min(times)
    assert fastest(lambda: appearance_features(image)) < fastest(lambda: np.log10((image + 1.0) / 256))
