"""How likely n samples certify a radius, and how many samples it takes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, ndtr

from tcertify._checks import (
    check_alpha,
    check_choice,
    check_non_negative,
    check_positive,
    check_probabilities,
    check_real,
    check_whole,
)
from tcertify.bounds._approximate import approximate_lower
from tcertify.certificates import METHODS, certify_votes
from tcertify.statistics.planning import smallest_useful_n
from tcertify.votes import Votes

#: With more values of N_A than this, the edge of what certifies is computed at a few of them.
_FEW_COLUMNS = 1000
_KNOTS = 33
_NEWTON_STEPS = 4

#: Half the width in standard deviations of the columns that are summed: all but 2e-9 of the mass.
_REACH = 6.0


def power(
    n: int,
    p_a: float,
    p_b: float,
    radius: float,
    *,
    sigma: float,
    alpha: float = 0.001,
    method: str = "joint",
) -> float:
    """The probability that `n` samples certify `radius` for an input with these p_A and p_B.

    A sum over the outcomes (N_A, N_B) that certify it, not an approximation by a formula.

    Parameters
    ----------
    n : int
        Estimation samples.
    p_a, p_b : float
        Probabilities of the top class and of its strongest rival, ``p_a + p_b <= 1``. The rest is
        spread over classes too rare to be the runner-up.
    radius : float
        At least 0; at 0, the probability to certify anything.
    sigma : float
        Noise, positive.
    alpha : float
        Failure probability of the certificate.
    method : {"joint", "t-certify", "certify"}
        As for `certify_counts`.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        An argument out of its range, or ``p_a + p_b > 1``.

    Notes
    -----
    Outcomes farther than 6 standard deviations from the mean of N_A are left out (2e-9), and for
    each N_A the outcomes that certify are taken to be those with at most some N_B, which grows
    with N_A. The joint bound keeps to this but for outcomes whose radius is within a thousandth
    of a standard error of the target. That edge is computed for every N_A, unless more than 1,000
    of them decide (n above 25,000 or so): then it is computed at 33 of them to a fraction of a
    count and interpolated, and may be one count off, which moves the power by less than
    ``0.4 / sqrt(n * p_b * (1 - p_b / (1 - p_a)))``.

    Examples
    --------
    >>> round(power(1000, 0.9, 0.05, 0.5, sigma=0.5, method="certify"), 4)
    0.9921
    """
    case = _checked(p_a, p_b, radius, sigma, alpha, method)
    return _power(check_whole("n", n), case)


def samples_needed(
    p_a: float,
    p_b: float,
    radius: float,
    *,
    sigma: float,
    alpha: float = 0.001,
    beta: float = 0.1,
    method: str = "joint",
    maximum: int = 10_000_000,
) -> int | None:
    """The samples that certify `radius` with probability 1 - `beta` for given p_A and p_B.

    Parameters
    ----------
    p_a, p_b, radius, sigma, alpha, method
        As for `power`.
    beta : float
        Accepted probability to miss the radius, in (0, 1).
    maximum : int
        Do not look beyond this n.

    Returns
    -------
    int or None
        For CERTIFY the smallest such n. For the other methods an n at which it holds, found by
        bisection to 1 %, but not always the smallest: power rises with n in small steps that now
        and then go back. None if no n up to `maximum` was found, as where the radius is not below
        the true one, ``sigma / 2 * (Phi^-1(p_a) - Phi^-1(p_b))`` for the joint method and
        ``sigma * Phi^-1(p_a)`` for CERTIFY.

    Raises
    ------
    ValueError
        As for `power`.

    Examples
    --------
    >>> samples_needed(0.9, 0.05, 0.5, sigma=0.5, method="certify")
    637
    """
    case = _checked(p_a, p_b, radius, sigma, alpha, method)
    beta, maximum = check_alpha("beta", beta), check_whole("maximum", maximum)
    if method == "certify":
        return _fewest_by_failures(case, beta, maximum)
    high = min(smallest_useful_n(alpha, method=method), maximum)
    while _power(high, case, quick=True) < 1 - beta:
        if high >= maximum:
            return None
        high = min(2 * high, maximum)
    low = high // 2
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        enough = _power(middle, case, quick=True) >= 1 - beta
        low, high = (low, middle) if enough else (middle, high)
    while _power(high, case) < 1 - beta:
        if high >= maximum:
            return None
        high = min(high + max(1, high // 200), maximum)
    return high


class _Case(NamedTuple):
    p_a: float
    p_b: float
    radius: float
    sigma: float
    alpha: float
    method: str


def _checked(
    p_a: float, p_b: float, radius: float, sigma: float, alpha: float, method: str
) -> _Case:
    for name, value in (("p_a", p_a), ("p_b", p_b)):
        check_probabilities(name, check_real(name, value))
    # 0.7 + 0.3 may exceed 1 by a rounding error.
    if p_a + p_b > 1 + 1e-12:
        raise ValueError(f"`p_a` + `p_b` must be at most 1, got {p_a} + {p_b}.")
    return _Case(
        p_a,
        p_b,
        check_non_negative("radius", radius),
        check_positive("sigma", sigma),
        check_alpha("alpha", alpha),
        check_choice("method", method, METHODS),
    )


def _power(n: int, case: _Case, *, quick: bool = False) -> float:
    from scipy.stats import binom  # half a second to load

    spread = _REACH * math.sqrt(n * case.p_a * (1 - case.p_a)) + 20
    columns = np.arange(
        max(0, math.floor(n * case.p_a - spread)), min(n, math.ceil(n * case.p_a + spread)) + 1
    )
    edge = _edges(columns, n, case, quick=quick)
    weight = binom.pmf(columns, n, case.p_a)
    share = min(1.0, case.p_b / (1 - case.p_a)) if case.p_a < 1 else 0.0
    rest = n - columns
    tail = np.where(edge < 0, 0.0, binom.cdf(edge, rest, share))
    return float((weight * np.where(edge >= rest, 1.0, tail)).sum())


def _edges(columns: NDArray[np.int64], n: int, case: _Case, *, quick: bool) -> NDArray[np.float64]:
    """For each k_a the largest k_b that certifies the radius, -1 if none does."""
    some = _first(columns, lambda k_a: _certifies(k_a, 0, n, case))
    every = _first(columns, lambda k_a: _certifies(k_a, n - k_a, n, case))
    edge = (n - columns).astype(np.float64)
    edge[:some] = -1
    between = columns[some:every]
    if len(between) <= 2 * _KNOTS:
        edge[some:every] = _exact_edges(between, n, case, _guessed_edges(between, n, case))
        return edge
    edge[some:every] = _interpolated_edges(between, n, case)
    if not quick and len(between) <= _FEW_COLUMNS:
        guess = edge[some:every].astype(np.int64)
        edge[some:every] = _exact_edges(between, n, case, guess)
    return edge


def _interpolated_edges(k_a: NDArray[np.int64], n: int, case: _Case) -> NDArray[np.float64]:
    """As `_exact_edges`, but now and then one off."""
    from scipy.interpolate import PchipInterpolator

    knots = np.linspace(k_a[0], k_a[-1], _KNOTS).round().astype(np.int64)
    smooth = PchipInterpolator(knots, _real_edges(knots, n, case))
    return np.asarray(np.floor(smooth(k_a)))


def _exact_edges(
    k_a: NDArray[np.int64], n: int, case: _Case, guess: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each k_a that divides 0 <= k_b <= n - k_a, the largest k_b that certifies."""
    low, high, guess, step = np.zeros_like(k_a), n - k_a, np.maximum(guess, 1), 1
    while (open_rows := np.flatnonzero(high - low > 1)).size:
        # Around the guess in growing steps, and where it is bracketed so, by halves.
        tried = np.clip(guess, low + 1, high - 1)[open_rows]
        inside = _certifies(k_a[open_rows], tried, n, case)
        low[open_rows[inside]] = tried[inside]
        high[open_rows[~inside]] = tried[~inside]
        near = np.where(inside, tried + step, tried - step)
        wide = high[open_rows] - low[open_rows] > 2 * step
        guess[open_rows] = np.where(wide, near, (low + high)[open_rows] // 2)
        step *= 2
    return low


def _real_edges(k_a: NDArray[np.int64], n: int, case: _Case) -> NDArray[np.float64]:
    """As `_exact_edges`, to a fraction of a count, by Newton steps with an approximate slope."""
    k_b: NDArray[np.float64] = _guessed_edges(k_a, n, case).astype(np.float64)
    for _ in range(_NEWTON_STEPS):
        at: NDArray[np.int64] = np.clip(k_b.round(), 1, n - k_a - 1).astype(np.int64)
        radius = _radii(k_a, at, n, case)
        slope = (
            case.sigma / 2 * (_approximate(k_a, at - 1, n, case) - _approximate(k_a, at, n, case))
        )
        # A radius of 0 is cut off, and says only that there are too many votes.
        k_b = np.where(radius > 0, at + (radius - case.radius) / slope, at - 2.0)
    return np.clip(k_b, 0, n - k_a)


def _guessed_edges(k_a: NDArray[np.int64], n: int, case: _Case) -> NDArray[np.int64]:
    """About the largest k_b that certifies, by bisection on the approximate bound."""
    low, high = np.zeros_like(k_a), n - k_a
    while (high - low > 1).any():
        middle = (low + high) // 2
        inside = case.sigma / 2 * _approximate(k_a, middle, n, case) >= case.radius
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return low


def _approximate(
    k_a: NDArray[np.int64], k_b: NDArray[np.int64], n: int, case: _Case
) -> NDArray[np.float64]:
    return approximate_lower(k_a, k_b, n, case.alpha)


def _certifies(
    k_a: NDArray[np.int64], k_b: NDArray[np.int64] | int, n: int, case: _Case
) -> NDArray[np.bool_]:
    radius = _radii(k_a, k_b, n, case)
    return (radius > 0) & (radius >= case.radius)


def _radii(
    k_a: NDArray[np.int64], k_b: NDArray[np.int64] | int, n: int, case: _Case
) -> NDArray[np.float64]:
    """The radius from `k_a` and `k_b` votes, the others being spread too thin to matter."""
    counts = np.stack(np.broadcast_arrays(k_a, k_b), axis=-1)
    votes = Votes(counts, np.zeros(len(counts), dtype=np.int64), n - counts.sum(-1))
    return certify_votes(votes, sigma=case.sigma, alpha=case.alpha, method=case.method).radius


def _first(
    columns: NDArray[np.int64], holds: Callable[[NDArray[np.int64]], NDArray[np.bool_]]
) -> int:
    """Index of the first column from which on it holds; the number of columns if it never does."""
    low, high = -1, len(columns)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(columns[middle : middle + 1])[0] else (middle, high)
    return high


def _fewest_by_failures(case: _Case, beta: float, maximum: int) -> int | None:
    """CERTIFY: the smallest n with the power, exactly.

    While the number of failures that still certifies stays the same, power falls with n. So the
    smallest n is the first one of some number of failures: of the first number that has the
    power there. Power goes up and down with that number, but stays below `_ceiling`, which
    grows with it (docs/planning.md), so the search starts where the ceiling has the
    power.
    """
    if not case.p_a > ndtr(case.radius / case.sigma):
        return None
    most = 1
    while _ceiling(most, case) < 1 - beta:
        if _first_n(most, case) > maximum:
            return None
        most *= 2
    low = -1
    while most - low > 1:
        middle = (low + most) // 2
        low, most = (low, middle) if _ceiling(middle, case) >= 1 - beta else (middle, most)
    from scipy.stats import binom

    for failures in itertools.count(most):
        n = _first_n(failures, case)
        if n > maximum:
            return None
        if binom.cdf(failures, n, 1 - case.p_a) >= 1 - beta:
            return n
    raise AssertionError  # pragma: no cover


def _ceiling(failures: int, case: _Case) -> float:
    """The power of so many failures if n could be a fraction."""
    # the n at which P(Bin(n, 1 - Phi(r / sigma)) <= failures) = alpha, with the beta function
    p = ndtr(case.radius / case.sigma)
    low, high = float(failures), 2.0 * failures + 2
    while betainc(high - failures, failures + 1, p) > case.alpha:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        above = middle == failures or betainc(middle - failures, failures + 1, p) > case.alpha
        low, high = (middle, high) if above else (low, middle)
    # just below that n, so that rounding errs upwards
    return float(betainc(low - failures, failures + 1, case.p_a))


def _first_n(failures: int, case: _Case) -> int:
    """The first n at which so many failures certify the radius."""
    low, high = failures, failures + 1
    while not _certifies(np.array([high - failures]), failures, high, case)[0]:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        certified = _certifies(np.array([middle - failures]), failures, middle, case)[0]
        low, high = (low, middle) if certified else (middle, high)
    return high
