"""About the joint bound, for little work: guesses that no guarantee rests on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtr, ndtri

#: Splits of the normal quantile between p_A and p_B that are tried.
_ANGLES = np.linspace(0, np.pi / 2, 4)


def approximate_lower(
    k_a: NDArray[Any], k_b: NDArray[Any], n: ArrayLike, alpha: ArrayLike
) -> NDArray[np.float64]:
    """About `joint_lower`; votes need not be whole.

    The least of a few bounds that split the normal quantile of alpha between p_A and the rival's
    share of the votes that A did not get.
    """
    samples, z = np.asarray(n), -ndtri(np.asarray(alpha))
    least = np.full(np.broadcast_shapes(k_a.shape, samples.shape, z.shape), np.inf)
    for angle in _ANGLES:
        rest = _upper(samples - k_a, samples, ndtr(z * np.cos(angle)))
        rival = rest * _upper(k_b, samples - k_a, ndtr(z * np.sin(angle)))
        least = np.minimum(least, -ndtri(rest) - ndtri(rival))
    return least


def deviation(
    k_a: NDArray[np.int64], k_b: NDArray[np.int64], n: NDArray[np.int64]
) -> NDArray[np.float64]:
    """sqrt(n) times the standard deviation of the estimate of Phi^-1(p_A) - Phi^-1(p_B)."""
    p_a, p_b = (k_a + 0.5) / (n + 1), (k_b + 0.5) / (n + 1)
    slope_a, slope_b = (np.sqrt(2 * np.pi) * np.exp(ndtri(p) ** 2 / 2) for p in (p_a, p_b))
    variance = slope_a**2 * p_a * (1 - p_a) + slope_b**2 * p_b * (1 - p_b)
    spread: NDArray[np.float64] = np.sqrt(variance + 2 * slope_a * slope_b * p_a * p_b)
    return spread


def _upper(
    k: NDArray[Any], n: NDArray[Any], confidence: NDArray[np.float64]
) -> NDArray[np.float64]:
    inner = k < n
    return np.where(inner, betaincinv(k + 1, np.where(inner, n - k, 1), confidence), 1.0)
