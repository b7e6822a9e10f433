"""Slow, exact oracles: what the tests compare with. None of them uses the code it checks."""

import math

import mpmath
import numpy as np
from flint import arb, ctx
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

# --- binomial tails and their roots, by interval arithmetic ---

ctx.prec = 300


def binomial_tail(k, n, p):
    """An interval around P(Bin(n, p) >= k), for an exact p or an interval around it."""
    if k <= 0:
        return arb(1)
    if k > n:
        return arb(0)
    return arb(p).beta_lower(k, n - k + 1, regularized=True)


def binomial_tail_sum(k, n, p):
    """The same as `binomial_tail`, as a plain sum: faster for n up to some thousands."""
    odds, mass = p / (1 - p), math.comb(n, k) * p**k * (1 - p) ** (n - k)
    total = mass
    for j in range(k, n):
        mass = mass * odds * (n - j) / (j + 1)
        total += mass
    return total


def binomial_masses(n, p):
    """P(Bin(n, p) = 0 .. n) along the last axis, for p of shape (..., 1)."""
    choices = np.array([math.comb(n, k) for k in range(n + 1)], dtype=np.float64)
    k = np.arange(n + 1)
    return choices * p**k * (1 - p) ** (n - k)


def binomial_tail_slope(k, n, p):
    """An interval around dP(Bin(n, p) >= k) / dp over the interval p, for 1 <= k <= n."""
    middle = p.mid()
    log_choices = arb(n + 1).lgamma() - arb(k).lgamma() - arb(n - k + 1).lgamma()
    log_slope = log_choices + (k - 1) * middle.log() + (n - k) * (1 - middle).log()
    change = (arb(k - 1) / p - arb(n - k) / (1 - p)) * (p - middle)  # mean value form
    return (log_slope + change).exp()


def clopper_pearson_root(k, n, alpha, guess):
    """An interval around the p with P(Bin(n, p) >= k) = alpha, for 1 <= k <= n.

    Interval Newton: an interval that the step maps into itself holds the root, whatever the guess.
    """
    if k == n:
        return arb(alpha) ** (1 / arb(n))
    for _ in range(10):
        excess = binomial_tail(k, n, guess) - arb(alpha)
        for relative_radius in (1e-13, 1e-11, 1e-9):
            radius = relative_radius * (guess if guess < 0.5 else 1 - guess)
            root = guess + arb(0, radius)
            stepped = guess - excess / binomial_tail_slope(k, n, root)
            if root.contains_interior(stepped):
                return _sharpened(k, n, guess, excess, stepped)
        guess = (guess - excess / binomial_tail_slope(k, n, guess)).mid()
    raise ArithmeticError(f"No root proved at k = {k}, n = {n}, alpha = {alpha}.")


def _sharpened(k, n, guess, excess, root):
    while (1 - root).rel_accuracy_bits() < 100 or root.rel_accuracy_bits() < 100:
        root = guess - excess / binomial_tail_slope(k, n, root)
    return root


def float_below(interval):
    """The largest float proved to lie below the interval, or on it."""
    value = np.nextafter(float(interval), np.inf)
    while not arb(value) <= interval:
        value = np.nextafter(value, -np.inf)
    return value


def float_above(interval):
    """The smallest float proved to lie above the interval, or on it."""
    return -float_below(-interval)


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


# --- normal quantiles ---


def normal_quantile(p, guess):
    """Phi^-1(p) to 60 digits by Newton's steps, p being exact: a float or an mpf."""
    with mpmath.workdps(60):
        z = mpmath.mpf(float(guess))
        for _ in range(4):
            z -= (mpmath.erfc(-z / mpmath.sqrt(2)) / 2 - p) / mpmath.npdf(z)
        return z
