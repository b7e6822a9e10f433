"""Fit the polynomials of the bit-exact Box-Muller transform, and print them with their errors.

Run as ``python kernels/fit_normal.py``. Minimax by Lawson's weights in float64, then the
coefficients are rounded to float32 one by one, lowest degree first, refitting the rest each time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def minimax(powers: Array, target: Array) -> Array:
    """The coefficients c that make max |powers @ c - target| smallest."""
    weight = np.ones(len(target))
    for _ in range(300):
        root = np.sqrt(weight)
        fit = np.linalg.lstsq(powers * root[:, None], target * root, rcond=None)[0]
        error = np.abs(powers @ fit - target)
        if error.max() == 0:
            break
        weight = weight * (error / error.max()) + 1e-12
        weight /= weight.sum()
    return fit


def rounded_minimax(powers: Array, target: Array) -> tuple[list[float], float]:
    """Float32 coefficients of the minimax fit, and their largest error."""
    rounded: list[float] = []
    rest = target
    for column in range(powers.shape[1]):
        lowest = float(np.float32(minimax(powers[:, column:], rest)[0]))
        rounded.append(lowest)
        rest = rest - lowest * powers[:, column]
    return rounded, float(np.abs(rest).max())


def nodes(low: float, high: float, count: int = 4001) -> Array:
    """Chebyshev nodes of an interval; their number is odd and the middle one is left out."""
    angle = np.pi * (2 * np.arange(count) + 1) / (2 * count)
    points = (low + high) / 2 + (high - low) / 2 * np.cos(angle)
    return np.delete(points, count // 2)


def fit_log() -> tuple[list[float], float]:
    """Q in -2 log(1 + t) = -2 t + t^2 Q(t) on [-1/3, 1/3]; relative error of the logarithm."""
    t = nodes(-1 / 3, 1 / 3)
    size = 2 * np.log1p(t)
    powers = np.vander(t, 9, increasing=True) * (t * t / size)[:, None]
    return rounded_minimax(powers, (2 * t - 2 * np.log1p(t)) / size)


def fit_sin() -> tuple[list[float], float]:
    """P in sin(x) = x + x^3 P(x^2) on [-pi/4, pi/4]; relative error."""
    x = nodes(-np.pi / 4, np.pi / 4)
    powers = np.vander(x * x, 3, increasing=True) * (x**3 / np.sin(x))[:, None]
    return rounded_minimax(powers, 1 - x / np.sin(x))


def fit_cos() -> tuple[list[float], float]:
    """P in cos(x) = 1 + x^2 P(x^2) on [-pi/4, pi/4]; relative error."""
    x = nodes(-np.pi / 4, np.pi / 4)
    powers = np.vander(x * x, 4, increasing=True) * (x**2 / np.cos(x))[:, None]
    return rounded_minimax(powers, 1 - 1 / np.cos(x))


if __name__ == "__main__":
    for name, (coefficients, error) in {
        "LOG": fit_log(),
        "SIN": fit_sin(),
        "COS": fit_cos(),
    }.items():
        print(f"{name} relative error {error:.2e} = 2^{np.log2(error):.1f}")
        for coefficient in coefficients:
            print(f"    {coefficient!r}  {coefficient.hex()}")
