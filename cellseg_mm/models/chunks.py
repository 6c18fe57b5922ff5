"""Masks on the canvas, some at a time: what keeps the memory of hundreds of cells that of a few."""
import torch
from torch.utils.checkpoint import checkpoint

# Values of one tensor of masks: 64 MB in float32.
_VALUES = 2**24


def chunks(count, values):
    """Slices of `count` masks that are worked on in one go, where each mask takes `values` numbers."""
    step = max(_VALUES // max(values, 1), 1)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def chunked_sum(function, count, values, *tensors):
    """Sum of what a function gives for parts of tensors, keeping nothing of a part for the backward pass.

    A part's intermediate values are computed again when gradients are; where all fits into one part, they are kept.

    Args:
        function (callable): Takes a part of each tensor and returns a number, as a tensor.
        count (int): Length of the tensors, 1 or more.
        values (int): Numbers that one element takes while `function` works on it.
        *tensors (Tensor | LocalMasks): Of length `count`.
    """
    parts = chunks(count, values)
    if len(parts) == 1:
        return function(*tensors)
    return sum(checkpoint(function, *(tensor[part] for tensor in tensors), use_reentrant=False,
                          preserve_rng_state=False) for part in parts)


def some(count, limit):
    """Indices, int64 (K,), of all of `count`, or of `limit` drawn at random where there are more; -1 is no limit."""
    return torch.randperm(count)[:limit] if count > limit != -1 else torch.arange(count)
