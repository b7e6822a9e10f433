"""Certificates that a class stays among the k most probable ones, with no price per class."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr

from tcertify import _checks
from tcertify.bounds import (
    clopper_pearson_lower,
    clopper_pearson_lower_complement,
    clopper_pearson_upper,
)
from tcertify.certificates import ABSTAIN, Certificates, certify_votes
from tcertify.radius import normal_quantile_lower, normal_quantile_upper
from tcertify.votes import Votes

Floats = NDArray[np.float64]

#: Sizes j of subsets with more choices than this get no share of alpha: they would hardly help.
_MOST_CHOICES = 10**6
_STEPS = 60
_ROUNDING = 1e-12
_FAR = 40.0


def certify_top_k(votes: Votes, k: int, *, sigma: float, alpha: float = 0.001) -> Certificates:
    """Certify that each class stays among the `k` most probable: wrong with probability `alpha`.

    With probability at least ``1 - alpha`` over the noise, per input, fewer than `k` classes are
    as probable as ``votes.top`` at every point closer than ``radius``. No share of `alpha` is paid
    per class, so that 1,000 classes cost no more than 10.

    Parameters
    ----------
    votes : Votes
        ``votes.top`` is the class to certify, chosen without a look at the counts: the label, when
        certified top-k accuracy is asked for.
    k : int
        At least 1 and below the number of classes. 1 gives the ordinary joint certificate.
    sigma, alpha : float
        As for `certify_counts`.

    Returns
    -------
    Certificates
        ``predicted`` is ``votes.top``, or -1; ``p_a_lower`` and ``p_b_upper`` bound the
        probability of that class and of the k-th most probable other one, and hold together with
        the radius at `alpha`. ``method`` is "top-k" with the number for k.

    Raises
    ------
    ValueError
        `k` out of its range, or `sigma` or `alpha` out of theirs.

    Notes
    -----
    p_A is bounded at ``alpha / 2``. For every j, the sum of the j smallest among the k largest
    other counts bounds the mass of the j least probable of the k most probable other classes, at
    ``alpha / (2 J choose(k, j))``, J being the number of j. The radius is the best of those that
    each j gives. docs/claims-proofs.md has the proof; the rule from masses to a radius is that of
    Jia et al., arXiv:1912.09899, Theorem 1.

    Examples
    --------
    >>> votes = Votes.of([[400, 390, 150, 60]], [1])
    >>> for k in (1, 2, 3):
    ...     found = certify_top_k(votes, k, sigma=0.5)
    ...     print(k, found.predicted, found.radius.round(3))
    1 [-1] [0.]
    2 [1] [0.112]
    3 [1] [0.226]
    """
    sigma, alpha = _checks.check_positive("sigma", sigma), _checks.check_alpha("alpha", alpha)
    k = check_k(k, votes.counts.shape[-1])
    if k == 1:
        return certify_votes(votes, sigma=sigma, alpha=alpha, method="joint")
    p_a = clopper_pearson_lower(votes.k_a, votes.n, alpha / 2)
    q_a = clopper_pearson_lower_complement(votes.k_a, votes.n, alpha / 2)
    sizes = subset_sizes(k)
    levels = [alpha / (2 * len(sizes)) / math.comb(k, j) for j in sizes]
    least = _least_of_largest(votes, k)[..., np.asarray(sizes) - 1]
    mass = np.minimum(clopper_pearson_upper(least, votes.n[..., None], levels), q_a[..., None])
    radius = top_k_radius_lower(p_a, q_a, mass, sizes, sigma)
    return Certificates(
        predicted=np.where(radius > 0, votes.top, ABSTAIN),
        radius=radius,
        p_a_lower=np.asarray(p_a),
        p_b_upper=mass[..., 0],
        n=votes.n,
        method=f"top-{k}",
        alpha=alpha,
        sigma=sigma,
    )


def check_k(k: int, classes: int, name: str = "k") -> int:
    """Return the k of top-k, at least 1 and below the number of classes."""
    k = _checks.check_whole(name, k)
    if k >= classes:
        raise ValueError(f"`{name}` must be below the number of classes, {classes}, got {k}.")
    return k


def subset_sizes(k: int) -> list[int]:
    """The j that get a share of alpha: all up to k = 22, beyond it those with few choices."""
    return [j for j in range(1, k + 1) if math.comb(k, j) <= _MOST_CHOICES]


def top_k_radius_lower(
    p_a_lower: ArrayLike,
    q_a_upper: ArrayLike,
    mass_upper: ArrayLike,
    sizes: ArrayLike,
    sigma: float,
) -> Floats:
    """A radius within which fewer than k other classes are as probable as A, rounded down.

    Parameters
    ----------
    p_a_lower, q_a_upper : array of float, shape (...)
        Lower bound of p_A, upper bound of 1 - p_A; the one that keeps more digits is used.
    mass_upper : array of float, shape (..., J)
        For each of `sizes`, an upper bound of the mass of the j least probable of the k most
        probable other classes.
    sizes : array of int, shape (J,)
        Sizes j, 1 to k.
    sigma : float
        Positive.

    Returns
    -------
    array of float64, shape (...)
        The best radius over the sizes; 0 where none certifies anything.

    Notes
    -----
    For one j it is sigma times the root u of j Phi(z_A - u) = Phi(z_J + u), with z_A and z_J the
    normal quantiles of p_A and of the mass (Jia et al., arXiv:1912.09899, Theorem 1).
    """
    z_a = np.maximum(normal_quantile_lower(p_a_lower), -normal_quantile_upper(q_a_upper))
    # Beyond -40 a mass is 0 as a float; a p_A that small certifies nothing.
    z_a, z_j = np.broadcast_arrays(
        np.maximum(z_a, -_FAR)[..., None], np.clip(normal_quantile_upper(mass_upper), -_FAR, _FAR)
    )
    middle, half_gap = (z_a + z_j) / 2, (z_a - z_j) / 2
    extra = _extra(middle, np.log(np.asarray(sizes, dtype=np.float64)))
    # Far more than rounding can move any of the terms.
    margin = _ROUNDING * (np.abs(half_gap) + extra + np.abs(middle))
    best = (half_gap + extra - margin).max(-1)
    radius: Floats = np.nextafter(sigma * np.where(z_a[..., 0] > -_FAR, best, 0.0), -np.inf)
    return np.maximum(radius, 0.0)


def _extra(middle: Floats, log_size: Floats) -> Floats:
    """The d >= 0 at which Phi(middle + d) is j times Phi(middle - d).

    The log of the ratio is convex in d (Phi's hazard rate is convex), so Newton's steps from the
    right of the root stay there and end at it.
    """
    # At `farthest` the ratio is at least (1 / 2) / (1 / 2j).
    farthest = np.maximum(middle, 0.0) - normal_quantile_lower(np.exp(-log_size) / 2)
    d = np.minimum(log_size / (2 * _hazard(middle)), farthest)
    for _ in range(_STEPS):
        excess = log_ndtr(middle + d) - log_ndtr(middle - d) - log_size
        step = excess / (_hazard(middle + d) + _hazard(middle - d))
        d = np.maximum(d - step, 0.0)
        found = np.abs(step) <= _ROUNDING / 16 * (1 + d)
        if found.all():
            break
    settled: Floats = np.where(found, d, 0.0)  # 0 is below the root
    return settled


def _hazard(z: Floats) -> Floats:
    """phi(z) / Phi(z)."""
    hazard: Floats = np.exp(-0.5 * z * z - log_ndtr(z)) / math.sqrt(2 * math.pi)
    return hazard


def _least_of_largest(votes: Votes, k: int) -> NDArray[np.int64]:
    """The votes of the least 1, 2, ..., k of the k largest other counts, shape (..., k)."""
    is_top = np.arange(votes.counts.shape[-1]) == votes.top[..., None]
    largest = np.partition(np.where(is_top, -1, votes.counts), -k, axis=-1)[..., -k:]
    return np.sort(largest, axis=-1).cumsum(axis=-1)
