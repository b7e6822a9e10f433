"""Slow, exact oracles: what the tests compare with. None of them uses the code it checks."""

import math

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
    excess = binomial_tail(k, n, guess) - arb(alpha)
    for relative_radius in (1e-13, 1e-11, 1e-9, 1e-7):
        root = arb(guess, relative_radius * guess)
        stepped = arb(guess) - excess / binomial_tail_slope(k, n, root)
        if root.contains_interior(stepped):
            break
    else:
        raise ArithmeticError(f"No root proved at k = {k}, n = {n}, alpha = {alpha}.")
    for _ in range(30):
        if stepped.rel_accuracy_bits() > 120:
            return stepped
        stepped = arb(guess) - excess / binomial_tail_slope(k, n, stepped)
    raise ArithmeticError(f"No sharp root at k = {k}, n = {n}, alpha = {alpha}.")


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
