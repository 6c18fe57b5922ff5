import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellseg_mm.evaluation.uncertainty import holm, interval, p_value, resample_groups, swap_groups

GROUPS = st.lists(st.sampled_from(['a', 'b', 'c', 'd']), min_size=1, max_size=12)


@given(GROUPS, st.integers(0, 100))
def test_images_of_a_group_are_drawn_together_and_as_many_groups_as_there_are(groups, seed):
    weights = resample_groups(groups, 50, seed)
    first = {name: groups.index(name) for name in groups}
    assert (weights == weights[:, [first[name] for name in groups]]).all()
    assert (weights[:, list(first.values())].sum(1) == len(first)).all()
    assert (weights == resample_groups(groups, 50, seed)).all()


def test_each_group_is_drawn_once_on_average():
    assert resample_groups(['a', 'a', 'b', 'c'], 4000).mean(0) == pytest.approx([1] * 4, abs=0.06)


def test_resampling_knows_the_spread_of_a_mean():
    # The standard error of a mean of n draws is their standard deviation / sqrt(n).
    values = np.random.default_rng(0).normal(size=200)
    weights = resample_groups(range(200), 4000)
    assert (weights @ values / 200).std() == pytest.approx(values.std() / np.sqrt(200), rel=0.05)


def test_groups_of_equal_images_are_as_much_evidence_as_one_image_each():
    values = np.random.default_rng(0).normal(size=30)
    alone = resample_groups(range(30), 4000, 1) @ values / 30
    fivefold = resample_groups(np.repeat(range(30), 5), 4000, 1) @ np.repeat(values, 5) / 150
    assert interval(fivefold, 30) == pytest.approx(interval(alone, 30))


def test_an_interval_holds_95_percent_and_leaves_out_the_unknown():
    assert interval(np.append(np.arange(1001.0), np.nan), 2) == pytest.approx([25, 975])
    assert np.isnan(interval(np.full(3, np.nan), 2)).all()
    assert np.isnan(interval(np.zeros(0), 2)).all()


def test_one_group_gives_no_interval():
    assert np.isnan(interval(np.ones(9), 1)).all()


@given(GROUPS)
def test_few_groups_are_swapped_in_every_way(groups):
    swapped, exact = swap_groups(groups, 1000)
    names = sorted(set(groups))
    assert exact
    assert {tuple(row) for row in swapped.tolist()} == {
        tuple(choice[names.index(name)] for name in groups)
        for choice in itertools.product((False, True), repeat=len(names))}
    assert len(swapped) == 2**len(names)


def test_many_groups_are_swapped_at_random_half_of_the_time():
    swapped, exact = swap_groups(range(70), 2000)
    assert not exact
    assert swapped.shape == (2000, 70)
    assert swapped.mean() == pytest.approx(0.5, abs=0.01)


def test_the_p_value_of_a_sign_test_is_the_binomials():
    # Six groups that all favour one model: 2 of 64 ways are as extreme.
    swapped, exact = swap_groups(range(6), 1000)
    differences = np.where(swapped, -1, 1).mean(1)
    assert p_value(1.0, differences, exact) == 2 / 64
    assert p_value(0.0, differences, exact) == 1


def test_a_p_value_is_never_zero_and_unknown_where_the_difference_is():
    assert p_value(5.0, np.zeros(999), exact=False) == 1 / 1000
    assert np.isnan(p_value(np.nan, np.zeros(9), exact=False))


def test_p_values_of_equal_models_are_spread_evenly():
    rng, found = np.random.default_rng(0), []
    swapped, exact = swap_groups(range(40), 400)
    for _ in range(400):
        gains = rng.normal(size=40)
        found.append(p_value(gains.mean(), np.where(swapped, -gains, gains).mean(1), exact))
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.025)
    assert np.mean(found) == pytest.approx(0.5, abs=0.05)


def slow_holm(p_values):
    """The least level at which each is rejected, the least p first, while it is at most level / (tests left)."""
    known = [p for p in p_values if p is not None]
    return [None if p is None else max(min(1, q * sum(other >= q for other in known)) for q in known if q <= p)
            for p in p_values]


@given(st.lists(st.none() | st.integers(1, 1000).map(lambda value: value / 1000), max_size=8))
def test_holm_agrees_with_its_definition(p_values):
    assert holm(p_values) == pytest.approx(slow_holm(p_values))
