"""How far figures would sway with other images, and whether two models differ by more than that."""
import numpy as np

LEVEL = 0.95
FEW_GROUPS = 20  # below, intervals are too narrow: see benchmarks/interval_coverage.py


def resample_groups(groups, replicates, seed=0):
    """How often each image occurs in resamples of whole groups.

    Images of one patient resemble each other: drawing them one by one would take them for more evidence than they are
    (cluster bootstrap; Efron and Tibshirani 1993, An Introduction to the Bootstrap; Davison and Hinkley 1997, 3.8).

    Args:
        groups (Sequence): (I,) the group of each image, of one or more.
        replicates (int): R.
        seed (int): The same gives the same resamples.

    Returns:
        ndarray: int64 (R, I).
    """
    members = np.unique(groups, return_inverse=True)[1]
    number = members.max() + 1
    drawn = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=replicates)
    return drawn[:, members].astype(np.int64)


def interval(values, groups):
    """The percentile interval of a figure's resampled values.

    Args:
        values (ndarray): float (R,); NaN, where a resample has no such cells, is left out.
        groups (int): How many groups were resampled. One alone tells nothing about others.

    Returns:
        list[float]: Its ends, between which 95% lie; NaN where nothing is known.
    """
    known = values[~np.isnan(values)]
    if groups < 2 or not known.size:
        return [np.nan, np.nan]
    return np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()


def swap_groups(groups, replicates, seed=0):
    """Which groups swap the predictions of two models, for a randomisation test (Noreen 1989; Smucker et al. 2007).

    Args:
        groups (Sequence): (I,) the group of each image, of one or more.
        replicates (int): R; where there are no more ways than that, each is taken once.
        seed (int): The same gives the same swaps.

    Returns:
        tuple[ndarray, bool]: bool (R', I), and whether these are all ways there are.
    """
    members = np.unique(groups, return_inverse=True)[1]
    number = members.max() + 1
    exact = number < 63 and 2**number <= replicates
    if exact:
        swapped = np.arange(2**number)[:, None] >> np.arange(number) & 1
    else:
        swapped = np.random.default_rng(seed).integers(0, 2, (replicates, number))
    return swapped.astype(bool)[:, members], exact


def p_value(difference, differences, exact):
    """The share of swaps that make two models differ as much as they do; two-sided.

    Args:
        difference (float): The observed difference.
        differences (ndarray): float (R,), those with predictions swapped.
        exact (bool): Whether they are all that there are, the observed one among them.

    Returns:
        float: Above 0 and at most 1; NaN where the difference is.
    """
    if np.isnan(difference):
        return np.nan
    # Sums in another order may differ in their last bits.
    as_large = np.sum(np.abs(differences) >= abs(difference) - 1e-12)
    return float(as_large / len(differences) if exact else (1 + as_large) / (1 + len(differences)))


def holm(p_values):
    """Adjust p values for that there are several, after Holm (1979), A simple sequentially rejective procedure.

    Args:
        p_values (Sequence[float | None]): M of them; None and NaN are no tests.

    Returns:
        list[float | None]: M, each at least as large as before and at most 1; None where unknown. Rejecting what lies
            below a level errs at all in no more than that share of families of tests.
    """
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None and not np.isnan(p))
    adjusted, least = [None] * len(p_values), 0.0
    for rank, (p, index) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * p))
        adjusted[index] = least
    return adjusted
