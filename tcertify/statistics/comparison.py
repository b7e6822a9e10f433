"""What others certify with, for comparison: older radius rules and simultaneous intervals.

The tight rule of Cohen et al. is `tcertify.radius.l2_radius_lower`. Everything here gives smaller
radii (the rules) or radii that do not hold (the intervals). The fixed split of alpha into two
halves is T-CERTIFY with one point in its grid:
``certify_counts(..., method="t-certify", grid=[0.5])``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tcertify import _checks
from tcertify.bounds import (
    clopper_pearson_lower,
    clopper_pearson_lower_complement,
    clopper_pearson_upper,
)
from tcertify.statistics.top_k import check_k, top_k_radius_lower
from tcertify.votes import Votes

Floats = NDArray[np.float64]

_POINTS = 65  # of a search, which then goes on between the neighbours of the best one
_ROUNDS = 8
_SAFE = 1 - 1e-12  # more than what the arithmetic below loses


def lecuyer_radius(p_a_lower: ArrayLike, p_b_upper: ArrayLike, sigma: ArrayLike) -> Floats:
    """An l2 radius within which the top class stays, by differential privacy.

    Gaussian noise is an (epsilon, delta)-private mechanism for epsilon <= 1. The radius is the
    largest over epsilon of sigma epsilon / sqrt(2 log(1.25 (1 + e^epsilon) / (p_A - e^(2 epsilon)
    p_B))), for epsilon up to min(1, log(p_A / p_B) / 2).

    Parameters
    ----------
    p_a_lower : array_like of float
        Lower bound of the top class's probability, in [0, 1].
    p_b_upper : array_like of float
        Upper bound of every other class's probability, in [0, 1].
    sigma : array_like of float
        Standard deviation of the noise, positive and finite.

    Returns
    -------
    ndarray of float64
        Shapes broadcast together; 0 where p_A <= p_B.

    Raises
    ------
    ValueError
        If an argument is out of its range or does not broadcast.

    Notes
    -----
    Any epsilon gives a valid radius, so a search that stops short of the best one is sound. It
    stops within 1e-9 of it, relatively.

    Source: Lecuyer et al., arXiv:1802.03471, Proposition 1, with the free parameter optimised as
    in Cohen et al., arXiv:1902.02918, appendix.

    Examples
    --------
    >>> float(lecuyer_radius(0.99, 0.01, 1.0).round(4))
    0.5549
    """
    p_a, p_b, scale = _checked(p_a_lower, p_b_upper, sigma)

    def radius(epsilon: Floats) -> Floats:
        gap = p_a - np.exp(2 * epsilon) * p_b
        delta = np.maximum(gap, 0) / (1 + np.exp(epsilon))
        return np.asarray(epsilon / np.sqrt(2 * np.log(1.25 / delta)), np.float64)

    with np.errstate(divide="ignore", invalid="ignore"):  # delta = 0 gives radius 0
        longest = np.minimum(1, np.log(np.maximum(p_a, p_b) / p_b) / 2)
        best = _largest(radius, np.zeros_like(longest), longest)
    return _where_it_leads(p_a, p_b, scale * best)


def li_radius(p_a_lower: ArrayLike, p_b_upper: ArrayLike, sigma: ArrayLike) -> Floats:
    """An l2 radius within which the top class stays, by the Renyi divergence.

    It is the largest over a > 0 of sigma sqrt(-2 / a log(1 - p_A - p_B + 2 M)), where M is the
    power mean of p_A and p_B of order 1 - a.

    Parameters
    ----------
    p_a_lower, p_b_upper, sigma : array_like of float
        As for `lecuyer_radius`.

    Returns
    -------
    ndarray of float64
        Shapes broadcast together; 0 where p_A <= p_B.

    Notes
    -----
    Any order gives a valid radius, so a search that stops short of the best one is sound. It is
    made for orders from 1e-3 to 1e3.

    Source: Li et al., arXiv:1809.03113, Theorem 1 and its l2 corollary, with the order optimised
    as in Cohen et al., arXiv:1902.02918, appendix.

    Examples
    --------
    >>> float(li_radius(0.99, 0.01, 1.0).round(4))
    1.908
    """
    p_a, p_b, scale = _checked(p_a_lower, p_b_upper, sigma)

    def radius(log_order: Floats) -> Floats:
        order = np.exp(log_order)
        divergence = -np.log1p(2 * _power_mean(p_a, p_b, 1 - order) - p_a - p_b)
        return np.sqrt(2 / order * np.maximum(divergence, 0))

    low = np.full(p_a.shape, np.log(1e-3))
    with np.errstate(divide="ignore", invalid="ignore"):
        best = _largest(radius, low, -low)
    return _where_it_leads(p_a, p_b, scale * best)


def jia_top_k_radius(votes: Votes, k: int, *, sigma: float, alpha: float = 0.001) -> Floats:
    """The radius of `certify_top_k` as published, which pays ``alpha / C`` for every class.

    With probability at least ``1 - alpha``, fewer than `k` classes are as probable as
    ``votes.top`` at every point closer than it.

    Parameters
    ----------
    votes, k, sigma, alpha
        As for `certify_top_k`.

    Returns
    -------
    ndarray of float64
        Shape of ``votes.top``; 0 where nothing is certified.

    Raises
    ------
    ValueError
        As `certify_top_k`.

    Notes
    -----
    Source: Jia et al., arXiv:1912.09899, Theorem 1 with the bounds that they call SimuEM.

    Examples
    --------
    >>> votes = Votes.of([[400, 390, 150, 60]], [1])
    >>> jia_top_k_radius(votes, 3, sigma=0.5).round(3)
    array([0.229])
    """
    sigma, alpha = _checks.check_positive("sigma", sigma), _checks.check_alpha("alpha", alpha)
    classes = votes.counts.shape[-1]
    k = check_k(k, classes)
    level = alpha / classes
    p_a = clopper_pearson_lower(votes.k_a, votes.n, level)
    q_a = clopper_pearson_lower_complement(votes.k_a, votes.n, level)
    upper = clopper_pearson_upper(votes.others, votes.n[..., None], level)
    masses = np.sort(upper, axis=-1)[..., -k:].cumsum(axis=-1)
    return top_k_radius_lower(
        p_a, q_a, np.minimum(masses, q_a[..., None]), np.arange(1, k + 1), sigma
    )


def sison_glaz_intervals(counts: ArrayLike, alpha: float) -> tuple[Floats, Floats]:
    """Simultaneous intervals of multinomial probabilities, which cover them only approximately.

    They do not certify: their coverage rests on an approximation of the multinomial by truncated
    Poisson counts, and fails where counts are small. If one class takes every vote, every interval
    is a point, which claims an infinite radius from five votes. docs/planning.md
    enumerates it.

    Parameters
    ----------
    counts : array_like of int
        Counts of C classes, shape (C,).
    alpha : float
        Nominal failure probability in (0, 1).

    Returns
    -------
    lower, upper : ndarray of float64
        Shape (C,).

    Raises
    ------
    ModuleNotFoundError
        Without statsmodels.

    Notes
    -----
    Source: Sison and Glaz, JASA 90 (1995) 366-369, as implemented by statsmodels.
    """
    alpha = _checks.check_alpha("alpha", alpha)
    votes = _checks.check_whole_array("counts", counts)
    try:
        from statsmodels.stats.proportion import multinomial_proportions_confint
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "Sison-Glaz intervals need statsmodels: pip install statsmodels."
        ) from None
    intervals = np.asarray(multinomial_proportions_confint(votes, alpha, method="sison-glaz"))
    return intervals[:, 0], intervals[:, 1]


def _checked(p_a: ArrayLike, p_b: ArrayLike, sigma: ArrayLike) -> tuple[Floats, Floats, Floats]:
    top = _checks.check_probabilities("p_a_lower", p_a)
    rival = _checks.check_probabilities("p_b_upper", p_b)
    scale = _checks.check_positives("sigma", sigma)
    top, rival, scale = _checks.check_broadcast(p_a_lower=top, p_b_upper=rival, sigma=scale)
    return top, rival, scale


def _where_it_leads(p_a: Floats, p_b: Floats, radius: Floats) -> Floats:
    result: Floats = np.where(p_a > p_b, radius * _SAFE, 0.0)
    return result[()]


def _power_mean(x: Floats, y: Floats, order: Floats) -> Floats:
    """(mean of x^order and y^order)^(1 / order), the geometric mean at order 0."""
    log_ratio = np.log(x / y) / 2
    spread = np.logaddexp(order * log_ratio, -order * log_ratio) - np.log(2)
    small = np.abs(order) < 1e-9
    return np.sqrt(x * y) * np.exp(np.where(small, 0, spread) / np.where(small, 1, order))


def _largest(function: Callable[[Floats], Floats], low: Floats, high: Floats) -> Floats:
    """The largest value found between low and high, elementwise."""
    best = np.zeros_like(low)
    for _ in range(_ROUNDS):
        points = np.linspace(low, high, _POINTS)
        values = function(points)
        at = np.argmax(np.nan_to_num(values), axis=0)[np.newaxis]
        best = np.maximum(best, np.nan_to_num(np.take_along_axis(values, at, axis=0)[0]))
        low = np.take_along_axis(points, np.maximum(at - 1, 0), axis=0)[0]
        high = np.take_along_axis(points, np.minimum(at + 1, _POINTS - 1), axis=0)[0]
    return best
