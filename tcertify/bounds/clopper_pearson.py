"""Clopper-Pearson bounds of a binomial probability."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from tcertify import _checks
from tcertify.bounds._binomial import Floats, Root, Solution, lower_root, upper_root

#: Several times the relative error of the elementary functions in the closed forms.
_ROUNDING = 4e-15


def clopper_pearson_lower(k: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> NDArray[np.float64]:
    """A lower bound that is at most p with probability at least 1 - alpha, for K ~ Bin(n, p).

    It is the p at which P(Bin(n, p) >= k) = alpha, exactly: no other lower bound that grows
    with k is larger anywhere and keeps the guarantee for every p.

    Parameters
    ----------
    k : array_like of int
        Successes seen, 0 <= k <= n.
    n : array_like of int
        Samples, 1 <= n <= 2**53.
    alpha : array_like of float
        One-sided failure probability in (0, 1).

    Returns
    -------
    ndarray of float64
        Shape of `k`, `n` and `alpha` broadcast together. 0 where k = 0, alpha^(1/n) where k = n.

    Raises
    ------
    ValueError
        If an argument is out of its range, is not whole where it must be, or does not broadcast.

    Notes
    -----
    Rounded down: never above the exact real number. For alpha from 1e-12 to 1/2 it lies below by
    at most 1e-12 min(p, 1 - p) + 4 ulp up to n = 1e6 and 2e-10 min(p, 1 - p) + 4 ulp up to n = 1e9
    (scipy 1.14 and later; 1e-10 and 1e-7 before). Above n = 2**32, where k and n - k exceed 1e6,
    it lies below by up to six counts of n, and elsewhere by up to 1e-9 p. For alpha under 1e-250
    it is 0 unless k = n. Near p = 1, where a float has no digits left, take
    `clopper_pearson_lower_complement`.

    Source: Clopper and Pearson, Biometrika 26 (1934) 404-413.

    Examples
    --------
    >>> clopper_pearson_lower(99_000, 100_000, 0.001)
    np.float64(0.9889893403774...)
    >>> clopper_pearson_lower([0, 10], 10, 0.5)
    array([0.        , 0.93303299])
    """
    return lower(*_checked(k, n, alpha))[()]


def clopper_pearson_upper(k: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> NDArray[np.float64]:
    """An upper bound that is at least p with probability at least 1 - alpha, for K ~ Bin(n, p).

    It is the p at which P(Bin(n, p) <= k) = alpha, exactly. Arguments, errors and accuracy are
    those of `clopper_pearson_lower`, but rounded up: never below the exact real number.

    Parameters
    ----------
    k, n, alpha : array_like
        As for `clopper_pearson_lower`.

    Returns
    -------
    ndarray of float64
        1 where k = n, 1 - alpha^(1/n) where k = 0.

    Examples
    --------
    >>> clopper_pearson_upper(0, 100_000, 0.001)
    np.float64(6.90751669906...e-05)
    """
    return upper(*_checked(k, n, alpha))[()]


def clopper_pearson_lower_complement(
    k: ArrayLike, n: ArrayLike, alpha: ArrayLike
) -> NDArray[np.float64]:
    """An upper bound of q = 1 - p: one minus `clopper_pearson_lower`, with all its digits.

    Where p is near 1, p itself has no digits left, and a radius computed from it is lost; this
    keeps the same relative accuracy however small q is. Rounded up.

    Parameters
    ----------
    k, n, alpha : array_like
        As for `clopper_pearson_lower`.

    Returns
    -------
    ndarray of float64
        At least 1 - p with probability at least 1 - alpha; 1 where k = 0.

    Examples
    --------
    >>> clopper_pearson_lower_complement(10**9, 10**9, 0.5)
    np.float64(6.93147180319...e-10)
    """
    successes, samples, level = _checked(k, n, alpha)
    return upper(samples - successes, samples, level)[()]


def _checked(k: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> tuple[Floats, Floats, Floats]:
    samples = _checks.check_whole_array("n", n, minimum=1)
    successes = _checks.check_whole_array("k", k)
    levels = _checks.check_alphas("alpha", alpha)
    successes, samples, levels = _checks.check_broadcast(k=successes, n=samples, alpha=levels)
    bad = successes > samples
    if bad.any():
        raise ValueError(
            f"`k` must be at most `n`, got {successes[bad].flat[0]} of {samples[bad].flat[0]}."
        )
    return successes.astype(np.float64), samples.astype(np.float64), levels


def lower(k: Floats, n: Floats, alpha: Floats) -> Floats:
    """`clopper_pearson_lower` of valid arguments: float64 arrays of one shape."""
    bound = np.zeros(k.shape)
    high = _lies_above_half(k, n, alpha)
    bound[high] = np.nextafter(1 - _small_upper(n[high] - k[high], n[high], alpha[high]), 0)
    low = ~high & (k > 0)
    bound[low] = _small_lower(k[low], n[low], alpha[low])
    return bound


def upper(k: Floats, n: Floats, alpha: Floats) -> Floats:
    """`clopper_pearson_upper` of valid arguments: float64 arrays of one shape."""
    bound = np.ones(k.shape)
    low = _lies_above_half(n - k, n, alpha)
    bound[low] = _small_upper(k[low], n[low], alpha[low])
    high = ~low & (k < n)
    bound[high] = np.nextafter(1 - _small_lower(n[high] - k[high], n[high], alpha[high]), 1)
    return bound


def _lies_above_half(k: Floats, n: Floats, alpha: Floats) -> NDArray[np.bool_]:
    """Whether the lower bound is about 1/2 or more, by the normal approximation."""
    return (k > 0) & (2 * k - n - 1 > -ndtri(alpha) * np.sqrt(n))


def _small_lower(k: Floats, n: Floats, alpha: Floats) -> Floats:
    """The lower bound, to a relative accuracy of its own, for 1 <= k <= n."""
    root, error = _by_half(_root_at_least, _root_at_most, k, k - 1, n, alpha)
    return np.maximum(root * (1 - error), 0)


def _small_upper(k: Floats, n: Floats, alpha: Floats) -> Floats:
    """The upper bound, to a relative accuracy of its own, for 0 <= k < n."""
    root, error = _by_half(_root_at_most, _root_at_least, k, k + 1, n, alpha)
    return np.minimum(root * (1 + error), 1)


def _by_half(
    root: Root, other: Root, k: Floats, other_k: Floats, n: Floats, alpha: Floats
) -> Solution:
    """One tail is alpha where the other is 1 - alpha: the smaller of the two is solved for."""
    value, error = np.empty_like(k), np.empty_like(k)
    half = (alpha <= 0.5) | (k == 0) | (k == n)  # the last two have closed forms
    value[half], error[half] = root(k[half], n[half], alpha[half])
    value[~half], error[~half] = other(other_k[~half], n[~half], 1 - alpha[~half])
    return value, error


def _root_at_least(k: Floats, n: Floats, alpha: Floats) -> Solution:
    """The p with P(Bin(n, p) >= k) = alpha and its relative error, for 1 <= k <= n."""
    log_root = np.log(alpha) / n
    root, error = np.exp(log_root), _ROUNDING * (1 - log_root)
    inner = k < n
    root[inner], error[inner] = lower_root(k[inner], n[inner], alpha[inner])
    return root, error


def _root_at_most(k: Floats, n: Floats, alpha: Floats) -> Solution:
    """The p with P(Bin(n, p) <= k) = alpha and its relative error, for 0 <= k < n."""
    root, error = -np.expm1(np.log(alpha) / n), np.full_like(n, _ROUNDING)
    inner = k > 0
    root[inner], error[inner] = upper_root(k[inner], n[inner], alpha[inner])
    return root, error
