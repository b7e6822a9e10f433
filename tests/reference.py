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


# --- the noise of tcertify_kernels ---------------------------------------------------------


def philox_words(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox4x32-10 in whole numbers of Python, from Salmon et al. 2011."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product_0, product_1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1 = (product_1 >> 32) ^ c1 ^ k0, product_1 & 0xFFFFFFFF
        c2, c3 = (product_0 >> 32) ^ c3 ^ k1, product_0 & 0xFFFFFFFF
        k0, k1 = k0 + 0x9E3779B9 & 0xFFFFFFFF, k1 + 0xBB67AE85 & 0xFFFFFFFF
    return c0, c1, c2, c3


def normal_of_words(radius: int, angle: int) -> tuple[float, float]:
    """Box-Muller in float64, from uniforms rounded to float32 as the kernels round them."""
    u = float(np.float32(np.float32(radius) + np.float32(0.5))) / 2.0**32
    length = math.sqrt(-2 * math.log(u))
    quarter, signed = angle >> 30, ((angle << 2 & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000
    x = float(np.float32(signed)) * 2.0**-31 * math.pi / 4
    cosine, sine = math.cos(x) * (-1 if quarter & 2 else 1), math.sin(x)
    return (length * sine, length * cosine) if quarter & 1 else (length * cosine, length * sine)


def noise_row(seed: int, image: int, sample: int, stream: int, size: int) -> NDArray[np.float64]:
    """The standard normals of one sample of one image, element by element."""
    row: list[float] = []
    for block in range(-(-size // 4)):
        counter = (block, image, sample & 0xFFFFFFFF, sample >> 32 | stream << 24)
        words = philox_words(counter, (seed & 0xFFFFFFFF, seed >> 32))
        row += [*normal_of_words(*words[:2]), *normal_of_words(*words[2:])]
    return np.array(row[:size])
