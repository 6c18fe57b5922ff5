"""Random numbers that differ from epoch to epoch and return when a run is resumed."""
import random

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.registry import FUNCTIONS

from cellseg_mm.processes import end_with_parent


@FUNCTIONS.register_module()
def prepare_worker(worker_id):  # noqa: ARG001 -- already part of torch.initial_seed()
    """Seed a data loading process from the main process's random state, and let it end with that process.

    MMEngine's own function gives each worker the same seed at every epoch, and with it the same augmentation. Here the
    seed follows the main process's state, which checkpoints keep.
    """
    seed = (torch.initial_seed() + 7919 * get_rank()) % 2**32
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 -- MMDetection's transforms draw from the global state
    end_with_parent()


def random_state():
    """Return the state of every random number generator, in types that are safe to load."""
    _, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    return dict(
        python=random.getstate(),
        numpy=(keys.tolist(), position, has_gauss, gauss),
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state() if torch.cuda.is_available() else None)


def set_random_state(state):
    """Put back what `random_state` returned."""
    random.setstate(state['python'])
    keys, *rest = state['numpy']
    np.random.set_state(('MT19937', np.asarray(keys, np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state['torch'].cpu())
    if state['cuda'] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())
