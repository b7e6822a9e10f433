"""Roots of binomial tails, as exact as scipy's incomplete beta function allows.

Input is valid here, and the public bounds round what they get from here to their safe side.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.special import betainc, betaincc, betaln, gammaln, ndtri, xlog1py

Floats = NDArray[np.float64]
Solution = tuple[Floats, Floats]
Root = Callable[[Floats, Floats, Floats], Solution]
#: (indices, p there) -> tail, its slope in log p, and the bend of that slope's logarithm
Tail = Callable[[NDArray[np.intp], Floats], tuple[Floats, Floats, Floats]]

_BLOCK = 1 << 13  # elements whose temporaries stay in the cache
_STEP_IS_LAST = 1e-5  # the error of a step goes as the square of this
_MAX_STEPS = 200
_SMALLEST_ALPHA = 1e-250  # scipy's tails lose digits where they come near the smallest floats
_MANY_SAMPLES = 2.0**32  # above it scipy's continued fraction gets slow, and then fails ...
_MANY_COUNTS = 1e6  # ... unless the successes or the failures are fewer than this
_SCIPY_ROUNDS_1_MINUS_P = np.lib.NumpyVersion(scipy.__version__) < "1.14.0"
_SMALL = np.arange(1, 16.0)
_SMALL_STIRLING_ERRORS = np.append(
    0.0,
    gammaln(_SMALL + 1) - (_SMALL + 0.5) * np.log(_SMALL) + _SMALL - math.log(2 * math.pi) / 2,
)


def lower_root(k: Floats, n: Floats, alpha: Floats) -> Solution:
    """The p with P(Bin(n, p) >= k) = alpha, for 1 <= k < n, and the relative error p may have."""
    return _in_blocks(_lower_root, _lower_root_of_many, k, n, alpha)


def upper_root(k: Floats, n: Floats, alpha: Floats) -> Solution:
    """The p with P(Bin(n, p) <= k) = alpha, for 1 <= k < n, and the relative error p may have."""
    return _in_blocks(_upper_root, _upper_root_of_many, k, n, alpha)


def relative_error(n: Floats, alpha: Floats, slope: Floats) -> Floats:
    """The relative error of a p whose log tail is log alpha and has this slope in log p.

    Several times what was measured against Arb, for alpha up to 1/2 and scipy 1.14 to 1.17: some of
    it in p itself, and some in the tail, which the slope divides. Older versions round 1 - p, which
    costs the tail up to n 2^-54.
    """
    if _SCIPY_ROUNDS_1_MINUS_P:
        tail_error = 2e-13 + 6.5e-17 * n
    else:
        tail_error = 2e-13 + np.minimum(1e-19 * n, 1e-9)
    error = 2e-13 + 2e-16 * np.sqrt(n) + tail_error / np.abs(slope)
    return np.where(alpha < _SMALLEST_ALPHA, np.inf, error)


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


def bend(shape: Floats, n: Floats, p: Floats) -> Floats:
    """The slope, in log p, of log(p^shape (1 - p)^(n - shape))."""
    return (shape - n * p) / (1 - p)


def solve(tail: Tail, alpha: Floats, start: Floats, floor: Floats, ceiling: Floats) -> Solution:
    """Halley's steps in log p to log tail = log alpha; bisection where they leave the bracket."""
    root = np.clip(start, floor, ceiling)
    slopes, log_alpha = np.ones_like(root), np.log(alpha)
    at = np.flatnonzero(alpha >= _SMALLEST_ALPHA)
    for _ in range(_MAX_STEPS):
        if not at.size:
            return root, slopes
        p = root[at]
        value, slope, bends = tail(at, p)
        slope /= value
        distance = np.log(value) - log_alpha[at]
        too_low = (distance < 0) == (slope > 0)
        floor[at] = np.where(too_low, p, floor[at])
        ceiling[at] = np.where(too_low, ceiling[at], p)
        curved = distance * (bends / slope - 1)
        stepped = p * np.exp(-distance / slope / np.clip(1 - curved / 2, 0.5, 2))
        inside = (stepped >= floor[at]) & (stepped <= ceiling[at])
        root[at] = np.where(inside, stepped, np.sqrt(floor[at] * ceiling[at]))
        slopes[at] = slope
        at = at[~(np.maximum(np.abs(distance), np.abs(curved)) < _STEP_IS_LAST)]
    raise FloatingPointError(f"No binomial bound found for alpha = {alpha[at[0]]}.")


def _lower_root(k: Floats, n: Floats, alpha: Floats) -> Solution:
    coefficient = log_coefficient(k, n)

    def tail(at: NDArray[np.intp], p: Floats) -> tuple[Floats, Floats, Floats]:
        k_at, n_at = k[at], n[at]
        value = np.asarray(betainc(k_at, n_at - k_at + 1, p), np.float64)
        slope = k_at * np.exp(log_pmf(coefficient[at], k_at, n_at, p))
        return value, slope, bend(k_at, n_at, p)

    # P(Bin(n, p) >= k) <= C(n, k) p^k puts the root above this.
    floor = np.exp((np.log(alpha) + np.log(k) + betaln(k, n - k + 1)) / k - 1e-6)
    start = _approximate_beta_quantile(k, n - k + 1, ndtri(alpha))
    root, slope = solve(tail, alpha, start, floor, np.ones_like(k))
    return root, relative_error(n, alpha, slope)


def _upper_root(k: Floats, n: Floats, alpha: Floats) -> Solution:
    coefficient = log_coefficient(k, n)

    def tail(at: NDArray[np.intp], p: Floats) -> tuple[Floats, Floats, Floats]:
        k_at, n_at = k[at], n[at]
        value = np.asarray(betaincc(k_at + 1, n_at - k_at, p), np.float64)
        slope = (k_at - n_at) * p / (1 - p) * np.exp(log_pmf(coefficient[at], k_at, n_at, p))
        return value, slope, bend(k_at + 1, n_at, p)

    # (1 - p)^n <= P(Bin(n, p) <= k) <= C(n, k) (1 - p)^(n - k) puts the root between these.
    floor = -np.expm1(np.log(alpha) / n * (1 - 1e-6))
    log_rest = (np.log(alpha) + np.log(n - k) + betaln(k + 1, n - k)) / (n - k)
    ceiling = -np.expm1(log_rest * (1 + 1e-6))
    start = _approximate_beta_quantile(k + 1, n - k, -ndtri(alpha))
    root, slope = solve(tail, alpha, start, floor, ceiling)
    return root, relative_error(n, alpha, slope)


def _lower_root_of_many(k: Floats, n: Floats, alpha: Floats) -> Solution:
    # P(Bin(n, p) >= k) is at most the normal tail at the signed root deviance of k - 1.
    return _root_of_signed_deviance(k - 1, n, -ndtri(alpha)), 4 / k


def _upper_root_of_many(k: Floats, n: Floats, alpha: Floats) -> Solution:
    return _root_of_signed_deviance(k + 1, n, ndtri(alpha)), 4 / k


def _root_of_signed_deviance(k: Floats, n: Floats, z: Floats) -> Floats:
    """The p at which sign(k / n - p) sqrt(2 deviance) is z, within two counts of n.

    Zubkov and Serov, Theory Probab. Appl. 57 (2013) 539-544: the normal distribution of this lies
    below P(Bin(n, p) <= k), and that of k + 1 above.
    """
    p = (k + z * z / 2 - z * np.sqrt(k * (n - k) / n + z * z / 4)) / (n + z * z)
    for _ in range(4):  # each gains three digits or more, where k and n - k exceed 1e6
        excess, spread = k - n * p, n * p * (1 - p)
        u, v = excess / (n * p), -excess / (n * (1 - p))
        squared = 2 * (n * p * _square_part(u) + n * (1 - p) * _square_part(v))
        p = p + (np.sign(excess) * np.sqrt(squared) - z) * np.sqrt(spread) / n
    return p


def _square_part(u: Floats) -> Floats:
    """Small u's (1 + u) log(1 + u) - u."""
    series = 1 / 20 - u * (1 / 30 - u * (1 / 42 - u / 56))
    return u * u * (1 / 2 - u * (1 / 6 - u * (1 / 12 - u * series)))


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
    there = np.where(mean > 0, mean, 1.0)
    excess = (k - there) / there
    part = there * (xlog1py(1 + excess, excess) - excess)
    return np.where(mean > 0, part, np.where(k > 0, np.inf, 0.0))


def _in_blocks(
    root: Root,
    root_of_many: Root,
    k: Floats,
    n: Floats,
    alpha: Floats,
) -> Solution:
    values, errors = np.empty_like(k), np.empty_like(k)
    with np.errstate(all="ignore"):  # steps that end in NaN or infinity leave the bracket
        many = (n > _MANY_SAMPLES) & (np.minimum(k, n - k) > _MANY_COUNTS)
        values[many], errors[many] = root_of_many(k[many], n[many], alpha[many])
        few = np.flatnonzero(~many)
        for first in range(0, few.size, _BLOCK):
            at = few[first : first + _BLOCK]
            values[at], errors[at] = root(k[at], n[at], alpha[at])
    return values, errors
