"""Slow, exact oracles: what the tests compare with. None of them uses the code it checks."""

import math
from fractions import Fraction
from typing import NamedTuple

import mpmath
import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import ndtr


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
#
# An event of the counts (N_A, N_c) is an upper set when a vote more for A, or one less for c,
# never leads out of it. By coupling, its probability then grows with p_A and falls with p_c.


def outcomes(n):
    """All (k_a, k_b) with k_a + k_b <= n."""
    k_a, k_b = np.divmod(np.arange((n + 1) ** 2), n + 1)
    inside = k_a + k_b <= n
    return k_a[inside], k_b[inside]


def log_ways(n):
    """The log of the trinomial coefficient of (k_a, k_b), as an (n + 1, n + 1) array."""
    k_a, k_b = outcomes(n)
    logs = np.concatenate([[0.0], np.log(np.arange(1, n + 1)).cumsum()])
    ways = np.full((n + 1, n + 1), -np.inf)
    ways[k_a, k_b] = logs[n] - logs[k_a] - logs[k_b] - logs[n - k_a - k_b]
    return ways


class UpperSet:
    """The smallest upper set that holds the given outcomes of n samples."""

    def __init__(self, n, inside):
        columns = np.where(inside, np.arange(n + 1), -1).max(axis=1)
        room = n - np.arange(n + 1)
        self.n, self.columns = n, np.minimum(np.maximum.accumulate(columns), room)
        self._ways = np.exp(log_ways(n))

    def probability(self, z_a, z_c):
        """P at p_A = Phi(z_a), p_c = Phi(z_c), for arrays of both."""
        p_a, p_c = ndtr(z_a), ndtr(z_c)
        return _sums(self.columns, self._ways, p_a, p_c, np.maximum(ndtr(-z_a) - p_c, 0.0))

    def most(self, gain_a, gain_c, gain_0):
        """The largest N_A gain_a + N_c gain_c + N_0 gain_0 of its outcomes."""
        a = np.flatnonzero(self.columns >= 0)
        ends = [np.zeros_like(a), self.columns[a]]
        sums = [
            np.outer(gain_a, a) + np.outer(gain_c, b) + np.outer(gain_0, self.n - a - b)
            for b in ends
        ]
        return np.max(sums, axis=(0, 2))


@njit(cache=True)
def _sums(columns, ways, p_a, p_c, p_0):
    n = len(columns) - 1
    power = np.empty((3, n + 1))
    out = np.empty(len(p_a))
    for i in range(len(out)):
        for which, p in ((0, p_a[i]), (1, p_c[i]), (2, p_0[i])):
            power[which, 0] = 1.0
            for k in range(n):
                power[which, k + 1] = power[which, k] * p
        total = 0.0
        for a in range(n + 1):
            column = 0.0
            for b in range(columns[a] + 1):
                column += ways[a, b] * power[1, b] * power[2, n - a - b]
            total += column * power[0, a]
        out[i] = total
    return out


class AnyLook:
    """The event that at some look the counts are in the upper set around its given outcomes.

    Each vote that changes changes the counts of all later looks alike, so that the coupling holds
    for the event as a whole.
    """

    def __init__(self, looks, insides):
        self.n, steps = looks[-1], np.diff([0, *looks])
        self._columns = np.full((len(looks), self.n + 1), -1)
        self._ways = np.zeros((len(looks), self.n + 1, self.n + 1))
        for j, (look, step, inside) in enumerate(zip(looks, steps, insides, strict=True)):
            self._columns[j, : look + 1] = UpperSet(look, inside).columns
            self._ways[j, : step + 1, : step + 1] = np.exp(log_ways(step))
        self._steps = steps

    def probability(self, z_a, z_c):
        """As for `UpperSet`, by recursion over (look, counts)."""
        p_a, p_c = ndtr(z_a), ndtr(z_c)
        p_0 = np.maximum(ndtr(-z_a) - p_c, 0.0)
        return _any_look(self._steps, self._columns, self._ways, p_a, p_c, p_0)

    def most(self, *gains):
        """At least the largest N_A gain_a + N_c gain_c + N_0 gain_0 of all outcomes."""
        return self.n * np.max(gains, axis=0)


@njit(cache=True)
def _any_look(steps, columns, ways, p_a, p_c, p_0):
    n = columns.shape[1] - 1
    out = np.zeros(len(p_a))
    for i in range(len(out)):
        alive = np.zeros((n + 1, n + 1))
        alive[0, 0] = 1.0
        seen = 0
        for j, step in enumerate(steps):
            mass = ways[j, : step + 1, : step + 1].copy()
            for a in range(step + 1):
                for b in range(step + 1 - a):
                    mass[a, b] *= p_a[i] ** a * p_c[i] ** b * p_0[i] ** (step - a - b)
            after = np.zeros((n + 1, n + 1))
            for a in range(seen + 1):
                for b in range(seen + 1 - a):
                    if alive[a, b] > 0.0:
                        after[a : a + step + 1, b : b + step + 1] += alive[a, b] * mass
            seen += step
            for a in range(seen + 1):
                for b in range(columns[j, a] + 1):
                    out[i] += after[a, b]
                    after[a, b] = 0.0
            alive = after
    return out


def largest_probability(event, t, *, floor, tolerance):
    """The largest P(event) met on the curve Phi^-1(p_A) - Phi^-1(p_c) = t, and where.

    Everywhere on the curve P is at most (1 + tolerance) times the larger of that and `floor`, but
    for rounding errors: every cell between two points is halved until a bound says so. One bound
    is P at the upper end's p_A and the lower end's p_c. The other: between two ends P is at most
    the larger end value times exp(the most that sum N_i log p_i can rise above its chord).
    """
    low = t / 2 - 4
    while event.probability(np.array([low]), np.array([-np.inf]))[0] > floor:
        low -= 1
    z = np.linspace(low, t / 2, 33)
    left, right = z[:-1], z[1:]
    p = event.probability(z, z - t)
    p_left, p_right = p[:-1], p[1:]
    best, where = p.max(), z[p.argmax()]
    while len(left):
        assert (right > left).all()
        bound = event.probability(right, left - t)
        rise = event.most(*_rises(left, right, t))
        bound = np.minimum(bound, np.maximum(p_left, p_right) * np.exp(np.minimum(rise, 700)))
        assert not np.isnan(bound).any()
        open_cells = bound > (1 + tolerance) * max(best, floor)
        left, right, p_left, p_right = (x[open_cells] for x in (left, right, p_left, p_right))
        middle = (left + right) / 2
        p = event.probability(middle, middle - t)
        if len(p) and p.max() > best:
            best, where = p.max(), middle[p.argmax()]
        left, right = np.concatenate([left, middle]), np.concatenate([middle, right])
        p_left, p_right = np.concatenate([p_left, p]), np.concatenate([p, p_right])
    return best, where


def _rises(left, right, t):
    """How far log p_A, log p_c and log(1 - p_A - p_c) can rise above their chords in a cell.

    Each is concave in z, so a quarter of the width times the fall of its slope.
    """
    slopes = []
    for z in (left, right):
        density_a, density_c = np.exp(-(z**2) / 2), np.exp(-((z - t) ** 2) / 2)
        rest = np.maximum(ndtr(-z) - ndtr(z - t), 1e-14)  # below it, no bound but the first is used
        slope = density_a / ndtr(z), density_c / ndtr(z - t), -(density_a + density_c) / rest
        slopes.append(np.array(slope) / math.sqrt(2 * math.pi))
    rises = (right - left) / 4 * (slopes[0] - slopes[1])
    rises[2, ndtr(-right) - ndtr(right - t) < 1e-12] = 1e9
    return rises


class Worst(NamedTuple):
    """The largest failure probability met, at Phi^-1(p_A) = z_a; none exceeds `bound`."""

    met: float
    bound: float
    z_a: float
    t: float


def worst_failure(bound, n, *, tolerance=1e-4):
    """The largest P(bound > t) over all (p_A, p_c), for a bound at each of `outcomes(n)`.

    For t between two attained values, the event {bound > t} is {bound >= the next value v}. It is
    replaced by the smallest upper set around it, which can only be more probable; and that is
    most probable at t = v. So one curve for each v is enough, and on each curve P is bounded.
    """
    k_a, k_b = outcomes(n)
    inside = np.zeros((n + 1, n + 1), dtype=bool)
    worst, before = Worst(0.0, 0.0, np.nan, np.nan), None
    least = 1e-12  # no smaller probability is told from 0
    for t in np.unique(bound[np.isfinite(bound)])[::-1]:
        now = bound == t
        inside[k_a[now], k_b[now]] = True
        event = UpperSet(n, inside)
        if before is not None and (event.columns == before).all():
            continue  # less probable than at the larger t
        before = event.columns
        floor = max(worst.met, least)
        met, z_a = largest_probability(event, t, floor=floor, tolerance=tolerance)
        if met > worst.met:
            worst = Worst(met, max(met, least) * (1 + tolerance), z_a, t)
    return worst
