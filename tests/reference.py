"""Slow, exact oracles: obvious transcriptions that the fast code is compared with."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


def trinomial(outcomes: NDArray[np.int64], p: ArrayLike) -> NDArray[np.float64]:
    """P(N = outcome) for outcomes (M, C) of one common sum n <= 1000 and probabilities (C,)."""
    coefficients = [
        float(math.factorial(sum(row)) // math.prod(map(math.factorial, row)))
        for row in outcomes.tolist()
    ]
    return np.array(coefficients) * np.prod(np.asarray(p) ** outcomes, axis=-1)
