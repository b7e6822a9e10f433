"""Slow, exact oracles: what the tests compare with. None of them uses the code it checks."""

import math
from fractions import Fraction

import mpmath
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri


def trinomial(outcomes, p):
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


def normal_of_words(radius: int, angle: int, further: int = 0) -> tuple[float, float]:
    """Box-Muller in float64, from uniforms rounded to float32 as the kernels round them."""
    if radius < 256:
        u = (
            float(np.float32(radius + float(np.float32(further) + np.float32(0.5)) / 2**32))
            / 2.0**32
        )
    else:
        u = float(np.float32(np.float32(radius) + np.float32(0.5))) / 2.0**32
    length = math.sqrt(-2 * math.log(u))
    quarter, signed = angle >> 30, ((angle << 2 & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000
    x = float(np.float32(signed)) * 2.0**-31 * math.pi / 4
    cosine, sine = math.cos(x) * (-1 if quarter & 2 else 1), math.sin(x)
    return (length * sine, length * cosine) if quarter & 1 else (length * cosine, length * sine)


def words_of_row(seed: int, image: int, sample: int, stream: int, size: int) -> list[int]:
    """The random words of one sample of one image, a multiple of four."""
    key, last = (seed & 0xFFFFFFFF, seed >> 32), sample >> 32 | stream << 24
    counters = [(block, image, sample & 0xFFFFFFFF, last) for block in range(-(-size // 4))]
    return [word for counter in counters for word in philox_words(counter, key)]


def noise_row(seed: int, image: int, sample: int, stream: int, size: int) -> NDArray[np.float64]:
    """The standard normals of one sample of one image, element by element."""
    words = words_of_row(seed, image, sample, stream, size)
    further = words_of_row(seed, image, sample, stream + 64, size)
    pairs = zip(words[0::2], words[1::2], further[0::2], strict=True)
    return np.array([z for pair in pairs for z in normal_of_words(*pair)][:size])


def integer_noise_row(
    seed: int, image: int, sample: int, stream: int, size: int, spread: Fraction
) -> list[int]:
    """Gaussians of standard deviation `spread` at uniforms of 64 bits, each rounded to the whole
    number that is nearest all over the uniform's cell, in 60 digits.
    """
    words = words_of_row(seed, image, sample, stream + 128, size)
    further = words_of_row(seed, image, sample, stream + 192, size)
    row = []
    with mpmath.workdps(60):
        for high, low in zip(words[:size], further, strict=False):
            ends = [mpmath.mpf((high << 32 | low) + end) / 2**64 for end in (0, 1)]
            least, most = -10 * math.ceil(spread), 10 * math.ceil(spread)
            while least < most:  # the smallest z with Phi((z + 1/2) / spread) above the uniform
                z = (least + most) // 2
                edge = mpmath.ncdf(
                    mpmath.mpf(2 * z + 1) * spread.denominator / spread.numerator / 2
                )
                assert (ends[0] < edge) == (ends[1] < edge), "a tie"
                least, most = (least, z) if ends[0] < edge else (z + 1, most)
            row.append(least)
    return row


# --- the worst failure of a bound on t, over everything that three classes can be -------------


def outcomes(n):
    """All (k_a, k_b) with k_a + k_b <= n."""
    k_a, k_b = np.divmod(np.arange((n + 1) ** 2), n + 1)
    inside = k_a + k_b <= n
    return k_a[inside], k_b[inside]


def worst_failure(bound, n):
    """The largest P(bound > t) over all (p_A, p_c), for a bound at each of `outcomes(n)`.

    Between two attained values v the failure event does not change, and the curves t = v just
    below v are the worst; along each, a grid is refined around its best point. Returns the
    probability and the z_A = Phi^-1(p_A) and t where it is reached.
    """
    k_a, k_b = outcomes(n)
    counts = np.stack([k_a, k_b, n - k_a - k_b])
    ways = np.concatenate([[0.0], np.log(np.arange(1, n + 1)).cumsum()])
    logs = ways[n] - ways[counts].sum(axis=0)
    order = np.argsort(-bound, kind="stable")[: np.isfinite(bound).sum()]
    counts, logs, bound = counts[:, order], logs[order], bound[order]
    best = (0.0, np.nan, np.nan)
    for t in np.unique(bound):
        end = np.searchsorted(-bound, -t, side="right")
        failing = counts[:, :end], logs[:end]
        z = ndtri(ndtr(t / 2) * np.sin(np.linspace(0, np.pi / 2, 50)[1:]) ** 2)
        p = along_curve(*failing, z, t)
        step = 1
        while p.max() > 0.8 * best[0] and step < 9:
            if p.max() > best[0]:
                best = (p.max(), z[p.argmax()], t)
            top = p.argmax()
            z = np.linspace(z[max(top - 1, 0)], z[min(top + 1, len(z) - 1)], 9)
            p = along_curve(*failing, z, t)
            step += 1
    return best


def along_curve(counts, logs, z, t):
    """P(N is one of the outcomes) at p_A = Phi(z), p_c = Phi(z - t)."""
    p_a, p_c = ndtr(z), ndtr(z - t)
    p = np.stack([p_a, p_c, np.maximum(ndtr(-z) - p_c, 1e-300)], axis=-1)
    return np.exp(np.log(p) @ counts + logs).sum(axis=-1)
