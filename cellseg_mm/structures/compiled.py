"""Compilation of the loops over pixels that NumPy has no fast words for."""
from numba import njit


def compiled(function):
    """Compile a function by numba at its first call, and keep the result on disk for later processes.

    Where no folder can be written, each process compiles for itself.
    """
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)
