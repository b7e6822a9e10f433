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


def _upper(
    k: NDArray[Any], n: NDArray[Any], confidence: NDArray[np.float64]
) -> NDArray[np.float64]:
    inner = k < n
    return np.where(inner, betaincinv(k + 1, np.where(inner, n - k, 1), confidence), 1.0)
