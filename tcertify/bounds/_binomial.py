"""Roots of binomial tails, as exact as scipy's incomplete beta function allows.

Input is valid here, and the public bounds round what they get from here to their safe side.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincc, betaln, gammaln, ndtri, xlog1py

Floats = NDArray[np.float64]
_Tail = Callable[[NDArray[np.intp], Floats], tuple[Floats, Floats]]

_BLOCK = 1 << 13  # elements whose temporaries stay in the cache
_STEP_IS_LAST = 1e-5  # a step from this distance ends at its cube
_MAX_STEPS = 100
_SMALL = np.arange(1, 16.0)
_SMALL_STIRLING_ERRORS = np.append(
    0.0,
    gammaln(_SMALL + 1) - (_SMALL + 0.5) * np.log(_SMALL) + _SMALL - math.log(2 * math.pi) / 2,
)


def lower_root(k: Floats, n: Floats, alpha: Floats) -> tuple[Floats, Floats]:
    """The p with P(Bin(n, p) >= k) = alpha, for 1 <= k < n, and the relative error p may have."""
    return _in_blocks(_lower_root, k, n, alpha)


def upper_root(k: Floats, n: Floats, alpha: Floats) -> tuple[Floats, Floats]:
    """The p with P(Bin(n, p) <= k) = alpha, for 1 <= k < n, and the relative error p may have."""
    return _in_blocks(_upper_root, k, n, alpha)


def relative_error(n: Floats, slope: Floats) -> Floats:
    """The relative error of a p whose log tail has this slope in log p.

    Scipy's tails are off by less than 2e-13 (1 + sqrt(n) / 100), relatively (measured against Arb
    by tests/data/make_bounds.py), and p by that over the slope; the rest is arithmetic.
    """
    return 2e-13 * (1 + np.sqrt(n) / 100) / np.abs(slope) + 4e-15


def log_coefficient(k: Floats, n: Floats) -> Floats:
    """The part of log P(Bin(n, p) = k) that p does not enter, for `log_pmf`."""
    at_least = 1 / (2 * math.pi)  # makes the factor of k = 0 or k = n one
    spread = 2 * math.pi * np.maximum(k, at_least) * (np.maximum(n - k, at_least) / n)
    errors = _stirling_error(n) - _stirling_error(k) - _stirling_error(n - k)
    return errors - np.log(spread) / 2


def log_pmf(coefficient: Floats, k: Floats, n: Floats, p: Floats) -> Floats:
    """Log of P(Bin(n, p) = k) by Loader's deviances, which do not cancel at large n."""
    return coefficient - deviance(k, n, p)


def deviance(k: Floats, n: Floats, p: Floats) -> Floats:
    """Kullback-Leibler divergence of k / n from p, times n."""
    return _deviance_part(k, n * p) + _deviance_part(n - k, n * (1 - p))


def _lower_root(k: Floats, n: Floats, alpha: Floats) -> tuple[Floats, Floats]:
    coefficient = log_coefficient(k, n)

    def tail_and_slope(at: NDArray[np.intp], p: Floats) -> tuple[Floats, Floats]:
        tail = np.asarray(betainc(k[at], n[at] - k[at] + 1, p), np.float64)
        return tail, k[at] * np.exp(log_pmf(coefficient[at], k[at], n[at], p)) / tail

    # P(Bin(n, p) >= k) <= C(n, k) p^k puts the root above this.
    floor = np.exp((np.log(alpha * k) + betaln(k, n - k + 1)) / k - 1e-6)
    start = _approximate_beta_quantile(k, n - k + 1, ndtri(alpha))
    return _solve(tail_and_slope, k, n, alpha, np.maximum(start, floor), floor, np.ones_like(k))


def _upper_root(k: Floats, n: Floats, alpha: Floats) -> tuple[Floats, Floats]:
    coefficient = log_coefficient(k, n)

    def tail_and_slope(at: NDArray[np.intp], p: Floats) -> tuple[Floats, Floats]:
        tail = np.asarray(betaincc(k[at] + 1, n[at] - k[at], p), np.float64)
        mass = np.exp(log_pmf(coefficient[at], k[at], n[at], p))
        return tail, -(n[at] - k[at]) * mass * p / (1 - p) / tail

    # P(Bin(n, p) <= k) <= C(n, k) (1 - p)^(n - k) puts the root below this.
    log_rest = (np.log(alpha * (n - k)) + betaln(k + 1, n - k)) / (n - k)
    ceiling = -np.expm1(log_rest * (1 + 1e-6))
    start = _approximate_beta_quantile(k + 1, n - k, -ndtri(alpha))
    return _solve(tail_and_slope, k + 1, n, alpha, start, np.zeros_like(k), ceiling)


def _solve(
    tail_and_slope: _Tail,
    shape: Floats,
    n: Floats,
    alpha: Floats,
    start: Floats,
    floor: Floats,
    ceiling: Floats,
) -> tuple[Floats, Floats]:
    """Halley's steps on log tail = log alpha in log p, where both tails are concave."""
    root = np.clip(start, floor, ceiling)
    slopes = np.empty_like(root)
    log_alpha = np.log(alpha)
    at = np.arange(root.size)
    for _ in range(_MAX_STEPS):
        p = root[at]
        tail, slope = tail_and_slope(at, p)
        distance = np.log(tail) - log_alpha[at]
        bend = (shape[at] - n[at] * p) / (1 - p) / slope - 1
        step = -distance / slope / np.clip(1 - distance * bend / 2, 0.5, 2)
        root[at] = np.clip(p * np.exp(step), floor[at], ceiling[at])
        slopes[at] = slope
        at = at[~(np.abs(distance) < _STEP_IS_LAST)]
        if not at.size:
            return root, relative_error(n, slopes)
    raise FloatingPointError(f"No binomial bound found for n = {n[at[0]]}, alpha = {alpha[at[0]]}.")


def _approximate_beta_quantile(a: Floats, b: Floats, z: Floats) -> Floats:
    """Abramowitz and Stegun 26.5.22 at the normal quantile z, for a and b of at least 1."""
    curvature = (z * z - 3) / 6
    u, v = 1 / (2 * a - 1), 1 / (2 * b - 1)
    h = 2 / (u + v)
    spread = z * np.sqrt(np.maximum(h + curvature, 0)) / h
    return a / (a + b * np.exp(-2 * (spread + (v - u) * (curvature + 5 / 6 - 2 / (3 * h)))))


def _stirling_error(m: Floats) -> Floats:
    """Stirling's error, log m! - log(sqrt(2 pi m) (m / e)^m), and 0 at m = 0."""
    small = _SMALL_STIRLING_ERRORS[np.minimum(m, 15).astype(np.intp)]
    inverse = 1 / np.maximum(m, 16)
    square = inverse * inverse
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))
    return np.where(m < 16, small, series)


def _deviance_part(k: Floats, mean: Floats) -> Floats:
    """One side of the deviance, k log(k / mean) + mean - k."""
    excess = (k - mean) / mean
    return mean * (xlog1py(1 + excess, excess) - excess)


def _in_blocks(
    roots: Callable[[Floats, Floats, Floats], tuple[Floats, Floats]],
    k: Floats,
    n: Floats,
    alpha: Floats,
) -> tuple[Floats, Floats]:
    values, errors = np.empty_like(k), np.empty_like(k)
    with np.errstate(all="ignore"):  # a NaN or an infinity never ends the steps, so none leaves
        for first in range(0, k.size, _BLOCK):
            block = slice(first, first + _BLOCK)
            values[block], errors[block] = roots(k[block], n[block], alpha[block])
    return values, errors
