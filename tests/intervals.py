"""Oracles by interval arithmetic and in many digits. None of them uses the code it checks."""

import math

import mpmath
import numpy as np
from flint import arb, ctx

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


# --- normal quantiles ---


def normal_quantile(p, guess):
    """Phi^-1(p) to 60 digits by Newton's steps, p being exact: a float or an mpf."""
    with mpmath.workdps(60):
        z = mpmath.mpf(float(guess))
        for _ in range(4):
            z -= (mpmath.erfc(-z / mpmath.sqrt(2)) / 2 - p) / mpmath.npdf(z)
        return z
