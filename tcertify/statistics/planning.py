"""Before the first sample: what n can certify, how likely, and how many samples it takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from tcertify._checks import check_alpha, check_positive, check_real, check_whole
from tcertify.certificates import METHODS, certify_counts
from tcertify.statistics.stopping import approximate_lower

#: With more values of N_A than this, the edge of what certifies is computed at a few of them.
_FEW_COLUMNS = 200
_KNOTS = 33
_NEWTON_STEPS = 4

#: Half the width in standard deviations of the columns that are summed: all but 2e-9 of the mass.
_REACH = 6.0


def largest_radius(n: int, alpha: float, sigma: float) -> float:
    """The largest radius that `n` samples can certify at all: every vote for one class.

    It is ``sigma * Phi^-1(alpha ** (1 / n))`` for every method, rounded down, and 0 where even
    unanimous votes certify nothing.

    Parameters
    ----------
    n : int
        Samples.
    alpha : float
        Failure probability, in (0, 1).
    sigma : float
        Noise, positive.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        An argument out of its range.

    Examples
    --------
    >>> round(largest_radius(100_000, 0.001, 1.0), 4)
    3.8115
    """
    n, alpha, sigma = (
        check_whole("n", n),
        check_alpha("alpha", alpha),
        check_positive("sigma", sigma),
    )
    return float(certify_counts([n, 0], 0, sigma=sigma, alpha=alpha, method="certify").radius)


def smallest_useful_n(alpha: float) -> int:
    """The smallest n that can certify anything at `alpha`, whatever the method.

    Unanimous votes bound p_A by ``alpha ** (1 / n)``, which must exceed 1/2: n is the first whole
    number above log2(1 / alpha). Useful is the least word for it: at this n every single vote must
    agree, and the radius is tiny (see `largest_radius`).

    Parameters
    ----------
    alpha : float
        Failure probability, in (0, 1).

    Returns
    -------
    int

    Examples
    --------
    >>> smallest_useful_n(0.001), smallest_useful_n(0.5), smallest_useful_n(0.05)
    (10, 2, 5)
    """
    alpha = check_alpha("alpha", alpha)
    n = max(1, math.floor(-math.log2(alpha)) - 1)
    while largest_radius(n, alpha, 1.0) <= 0:
        n += 1
    return n


def check_useful(n: int, alpha: float) -> None:
    """Refuse a run of `n` samples an image that could never certify anything at `alpha`.

    Parameters
    ----------
    n : int
        Samples an image.
    alpha : float
        Failure probability, in (0, 1).

    Raises
    ------
    ValueError
        With the smallest useful n.

    Examples
    --------
    >>> check_useful(10, 0.001)
    >>> check_useful(9, 0.001)
    Traceback (most recent call last):
    ...
    ValueError: n = 9 samples can never certify anything at alpha = 0.001, even if all votes \
agree: the smallest useful n is 10.
    """
    if largest_radius(n, alpha, 1.0) <= 0:
        raise ValueError(
            f"n = {n} samples can never certify anything at alpha = {alpha:g}, even if all votes "
            f"agree: the smallest useful n is {smallest_useful_n(alpha)}."
        )


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

    A sum over all outcomes (N_A, N_B), not an approximation by a formula.

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
    Outcomes farther than 6 standard deviations from the mean of N_A are left out (2e-9). With more
    than 200 values of N_A where the answer depends on N_B, the edge of the certified outcomes is
    computed at 33 of them to a fraction of a count, and interpolated.

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
        bisection to 1 %: power rises with n in small steps that now and then go back. None if
        no n up to `maximum` will do, as where the radius exceeds the true one,
        ``sigma / 2 * (Phi^-1(p_a) - Phi^-1(p_b))`` for the joint method and
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
    high = smallest_useful_n(alpha)
    while _power(high, case) < 1 - beta:
        if high >= maximum:
            return None
        high = min(2 * high, maximum)
    low = high // 2
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if _power(middle, case) >= 1 - beta else (middle, high)
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
        if not 0 <= check_real(name, value) <= 1:
            raise ValueError(f"`{name}` must be in [0, 1], got {value}.")
    # 0.7 + 0.3 may exceed 1 by a rounding error.
    if p_a + p_b > 1 + 1e-12:
        raise ValueError(f"`p_a` + `p_b` must be at most 1, got {p_a} + {p_b}.")
    if not 0 <= check_real("radius", radius) < math.inf:
        raise ValueError(f"`radius` must be non-negative and finite, got {radius}.")
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {', '.join(METHODS)}, got {method!r}.")
    return _Case(
        p_a, p_b, radius, check_positive("sigma", sigma), check_alpha("alpha", alpha), method
    )


def _power(n: int, case: _Case) -> float:
    from scipy.stats import binom  # half a second to load, and most runs only ask `check_useful`

    spread = _REACH * math.sqrt(n * case.p_a * (1 - case.p_a)) + 20
    columns = np.arange(
        max(0, math.floor(n * case.p_a - spread)), min(n, math.ceil(n * case.p_a + spread)) + 1
    )
    edge = _edges(columns, n, case)
    weight = binom.pmf(columns, n, case.p_a)
    share = min(1.0, case.p_b / (1 - case.p_a)) if case.p_a < 1 else 0.0
    rest = n - columns
    tail = np.where(edge < 0, 0.0, binom.cdf(edge, rest, share))
    return float((weight * np.where(edge >= rest, 1.0, tail)).sum())


def _edges(columns: NDArray[np.int64], n: int, case: _Case) -> NDArray[np.float64]:
    """For each k_a the largest k_b that certifies the radius, -1 if none does."""
    from scipy.interpolate import PchipInterpolator

    some = _first(columns, lambda k_a: _certifies(k_a, 0, n, case))
    every = _first(columns, lambda k_a: _certifies(k_a, n - k_a, n, case))
    edge = (n - columns).astype(np.float64)
    edge[:some] = -1
    if some == every:
        return edge
    between = columns[some:every]
    if len(between) <= _FEW_COLUMNS:
        edge[some:every] = _exact_edges(between, n, case)
    else:
        knots = np.linspace(between[0], between[-1], _KNOTS).round().astype(np.int64)
        smooth = PchipInterpolator(knots, _real_edges(knots, n, case))
        edge[some:every] = np.floor(smooth(between))
    return edge


def _exact_edges(k_a: NDArray[np.int64], n: int, case: _Case) -> NDArray[np.int64]:
    """For each k_a that divides 0 <= k_b <= n - k_a, the largest k_b that certifies."""
    low, high = np.zeros_like(k_a), n - k_a
    guess, step = np.maximum(_guessed_edges(k_a, n, case), 1), 1
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
    return certify_counts(
        counts,
        np.zeros(len(counts), dtype=np.int64),
        sigma=case.sigma,
        alpha=case.alpha,
        method=case.method,
        invalid=n - counts.sum(-1),
    ).radius


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
    smallest n is the first one of some number of failures.
    """
    if not case.p_a > ndtr(case.radius / case.sigma):
        return None
    most = 1
    while _power_of(most, case)[1] < 1 - beta:
        if _power_of(most, case)[0] > maximum:
            return None
        most *= 2
    low = -1
    while most - low > 1:
        middle = (low + most) // 2
        low, most = (low, middle) if _power_of(middle, case)[1] >= 1 - beta else (middle, most)
    n = _power_of(most, case)[0]
    return n if n <= maximum else None


def _power_of(failures: int, case: _Case) -> tuple[int, float]:
    """The first n at which so many failures certify the radius, and the power there."""
    from scipy.stats import binom

    low, high = failures, failures + 1
    while not _certifies(np.array([high - failures]), failures, high, case)[0]:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        certified = _certifies(np.array([middle - failures]), failures, middle, case)[0]
        low, high = (low, middle) if certified else (middle, high)
    return high, float(binom.cdf(failures, high, 1 - case.p_a))
