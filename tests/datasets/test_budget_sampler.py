import math
from itertools import chain
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.dataset import DefaultSampler
from torch.utils.data import DataLoader

from cellseg_mm.datasets import budget_sampler
from cellseg_mm.datasets.budget_sampler import BudgetSampler


def epochs_of(size, iterations, per_epoch, batch_size, seed=0, rank=0, processes=1):
    """What a process takes in each epoch."""
    with patch.object(budget_sampler, 'get_dist_info', return_value=(rank, processes)):
        sampler = BudgetSampler(range(size), iterations, per_epoch, batch_size, seed=seed)
    found = []
    for epoch in range(math.ceil(iterations / per_epoch)):
        sampler.set_epoch(epoch)
        found.append(list(sampler))
        assert len(sampler) == len(found[-1])
    return found


BUDGETS = dict(size=st.integers(1, 12), iterations=st.integers(1, 30), per_epoch=st.integers(1, 9),
               batch_size=st.integers(1, 5), seed=st.integers(0, 99))


@given(**BUDGETS)
def test_every_image_comes_once_in_each_pass_and_the_budget_is_met_exactly(size, iterations, per_epoch, batch_size,
                                                                           seed):
    epochs = epochs_of(size, iterations, per_epoch, batch_size, seed)
    taken = list(chain(*epochs))
    assert len(taken) == iterations * batch_size
    for start in range(0, len(taken), size):
        images = taken[start:start + size]
        assert len(set(images)) == len(images)
    assert all(len(epoch) == per_epoch * batch_size for epoch in epochs[:-1])


@given(**BUDGETS, processes=st.integers(1, 4))
def test_processes_take_turns_in_what_one_would_take_alone(size, iterations, per_epoch, batch_size, seed, processes):
    alone = epochs_of(size, iterations, per_epoch, batch_size * processes, seed)
    shares = [epochs_of(size, iterations, per_epoch, batch_size, seed, rank, processes) for rank in range(processes)]
    for epoch, expected in enumerate(alone):
        of_ranks = [share[epoch] for share in shares]
        assert {len(images) for images in of_ranks} == {len(expected) // processes}
        assert list(chain(*zip(*of_ranks, strict=True))) == expected


@given(**BUDGETS)
def test_an_epoch_does_not_depend_on_those_before(size, iterations, per_epoch, batch_size, seed):
    epochs = epochs_of(size, iterations, per_epoch, batch_size, seed)
    sampler = BudgetSampler(range(size), iterations, per_epoch, batch_size, seed=seed)
    for epoch in reversed(range(len(epochs))):
        sampler.set_epoch(epoch)
        assert list(sampler) == epochs[epoch]


def test_passes_are_the_epochs_of_the_default_sampler():
    taken = list(chain(*epochs_of(7, 21, 4, 1, seed=3)))
    default = DefaultSampler(range(7), seed=3)
    for number in range(3):
        default.set_epoch(number)
        assert taken[7 * number:7 * number + 7] == list(default)


@pytest.mark.parametrize('workers', [0, 1])
def test_a_loader_gives_as_many_batches(workers):
    sampler = BudgetSampler(range(5), 7, 4, 2, seed=0)
    loader = DataLoader(range(5), batch_size=2, sampler=sampler, num_workers=workers)
    assert len(loader) == len(list(loader)) == 4
    sampler.set_epoch(1)
    assert len(loader) == len(list(loader)) == 3
