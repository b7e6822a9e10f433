"""Summaries of many certificates: curves over images, and what holds for all of them at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from tcertify._checks import check_alpha, check_positive, check_real, check_whole
from tcertify.bounds import clopper_pearson_lower, clopper_pearson_upper
from tcertify.certificates import certify_counts


@dataclass(frozen=True, eq=False)
class Curve:
    """A share of images at each of some levels, with its exact interval.

    Attributes
    ----------
    level, share, lower, upper
        float64 arrays of one shape. ``[lower, upper]`` holds the share of the population that the
        images were drawn from with probability at least ``1 - alpha``, level by level.
    """

    level: NDArray[np.float64]
    share: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean with an approximate interval; see `average_certified_radius`."""

    value: float
    lower: float
    upper: float


def certified_accuracy(
    radius: ArrayLike, correct: ArrayLike, radii: ArrayLike, *, alpha: float = 0.05
) -> Curve:
    """The share of images that are right and certified at each radius, with an exact interval.

    The interval is two-sided Clopper-Pearson, ``alpha / 2`` on each side, and it is over images:
    it holds the share that the same procedure would reach on the whole population, with
    probability at least ``1 - alpha`` for any one radius, when the images are an independent
    sample. It does not speak of the certificates' own failures; for those see
    `expected_wrong_certificates` and `certify_family`.

    Parameters
    ----------
    radius : array_like of float
        Certified radii, shape ``(M,)``, 0 for an abstention.
    correct : array_like of bool
        Whether each certified prediction is the true label, shape ``(M,)``; False for an
        abstention.
    radii : array_like of float
        Where to read the curve, any shape. An image counts at r when its radius is at least r, as
        in the field's tables.
    alpha : float
        Two-sided failure probability of the interval, in (0, 1).

    Returns
    -------
    Curve
        ``level`` holds `radii`.

    Raises
    ------
    ValueError
        Arrays of different lengths or without an entry; NaN, negative or text radii; flags that
        are not bool.

    Examples
    --------
    >>> curve = certified_accuracy([0.0, 0.3, 0.6, 0.9], [False, True, True, True], [0.0, 0.5])
    >>> curve.share
    array([0.75, 0.5 ])
    """
    values, flags = _checked(radius, correct, "radius")
    return _share_at_least(values, flags, radii, "radii", alpha)


def p_a_distribution(
    p_a_lower: ArrayLike, correct: ArrayLike, levels: ArrayLike, *, alpha: float = 0.05
) -> Curve:
    """The share of images that are right with a lower bound of p_A at each level or above.

    One minus the distribution function of p_A, the image's error counted as 0. It describes a
    classifier whatever sigma and whatever n came after, while the average certified radius is
    ruled by the few easy images whose radius grows with n (arXiv 2410.06895). The interval, the
    shapes and the errors are those of `certified_accuracy`.

    Parameters
    ----------
    p_a_lower : array_like of float
        Lower bounds of p_A in [0, 1], shape ``(M,)``.
    correct : array_like of bool
        As for `certified_accuracy`.
    levels : array_like of float
        Values of p_A at which to read the distribution.
    alpha : float
        Two-sided failure probability of the interval.

    Returns
    -------
    Curve

    Examples
    --------
    >>> p_a_distribution([0.4, 0.9, 0.99], [False, True, True], [0.5, 0.95]).share.round(3)
    array([0.667, 0.333])
    """
    values, flags = _checked(p_a_lower, correct, "p_a_lower")
    if (values > 1).any():
        raise ValueError(f"`p_a_lower` must be in [0, 1], got {values[values > 1][0]}.")
    return _share_at_least(values, flags, levels, "levels", alpha)


def average_certified_radius(
    radius: ArrayLike,
    correct: ArrayLike,
    *,
    alpha: float = 0.05,
    resamples: int = 9999,
    seed: int = 0,
) -> Estimate:
    """The mean certified radius, 0 where wrong or abstained, with a bootstrap interval.

    The interval is the two-sided percentile bootstrap over images: its level is approximate, and
    one image alone gives an interval of no width. Any certified-accuracy curve integrates to this
    value.

    Parameters
    ----------
    radius, correct : array_like
        As for `certified_accuracy`.
    alpha : float
        Two-sided failure probability that the interval aims at.
    resamples : int
        Bootstrap samples.
    seed : int
        Of the resampling; equal seeds give equal intervals.

    Returns
    -------
    Estimate

    Raises
    ------
    ValueError
        As for `certified_accuracy`.

    Examples
    --------
    >>> average_certified_radius([0.5, 1.0, 2.0], [True, True, False]).value
    0.5
    """
    from scipy.stats import bootstrap  # half a second to load

    values, flags = _checked(radius, correct, "radius")
    scores = values * flags
    level = 1 - check_alpha("alpha", alpha)
    check_whole("resamples", resamples)
    if len(scores) == 1:
        return Estimate(*[float(scores[0])] * 3)
    interval = bootstrap(
        (scores,),
        np.mean,
        confidence_level=level,
        n_resamples=resamples,
        batch=max(1, 10_000_000 // len(scores)),
        method="percentile",
        rng=np.random.default_rng(check_whole("seed", seed, minimum=0)),
    ).confidence_interval
    return Estimate(float(scores.mean()), float(interval.low), float(interval.high))


def expected_wrong_certificates(images: int, alpha: float) -> float:
    """At most this many wrong certificates are expected among `images` inputs at `alpha` each.

    `images` counts every input that was tried, abstentions included: the guarantee of one
    certificate is over all that could have happened to its input, and it does not hold given that
    the input was certified.

    >>> expected_wrong_certificates(10_000, 0.001)
    10.0
    """
    return check_whole("images", images) * check_alpha("alpha", alpha)


def certify_family(
    counts: ArrayLike,
    top: ArrayLike,
    radius: ArrayLike,
    *,
    sigma: float,
    alpha: float = 0.001,
    method: str = "joint",
    invalid: ArrayLike = 0,
) -> NDArray[np.bool_]:
    """Which inputs are robust at `radius`, all at once: any error among them has probability at
    most `alpha`, however many inputs there are and however they depend on each other.

    Holm's step-down test of the hypotheses "the radius of input i is at most `radius`": all M are
    tested at ``alpha / M``, those that remain at ``alpha`` over their number, until none falls.

    Parameters
    ----------
    counts : array_like of int, shape (M, C)
        Votes of each input.
    top : array_like of int, shape (M,)
        The class of each input, from its selection sample.
    radius : float or array_like of shape (M,)
        Radius to certify, at least 0; at 0 that `top` is the answer at all.
    sigma, alpha, method, invalid
        As for `certify_counts`; `alpha` is that of the whole family.

    Returns
    -------
    ndarray of bool
        Shape ``(M,)``.

    Raises
    ------
    ValueError
        As for `certify_counts`, or a `radius` that is negative, not finite or of another shape.

    Notes
    -----
    The proof needs a test that rejects at every level above one at which it rejects. The joint
    bound orders outcomes by alpha; here the order is that of ``alpha / M`` at every step, which
    gives it this property. Source: Holm, Scandinavian Journal of Statistics 6 (1979) 65-70; Goeman
    and Solari, Annals of Statistics 38 (2010) 3782-3810.

    Examples
    --------
    >>> votes = [[990, 10], [905, 95], [700, 300]]
    >>> certify_family(votes, [0, 0, 0], 0.5, sigma=0.5, alpha=0.001)
    array([ True,  True, False])
    """
    alpha, sigma = check_alpha("alpha", alpha), check_positive("sigma", sigma)
    single = certify_counts(counts, top, sigma=sigma, alpha=alpha, method=method, invalid=invalid)
    if single.radius.ndim != 1:
        raise ValueError(f"`counts` must have shape (M, C), got {np.shape(counts)}.")
    radii = _reals("radius", radius)
    if radii.shape not in ((), single.radius.shape):
        raise ValueError(f"`radius` must have shape {single.radius.shape}, got {radii.shape}.")
    votes, tops = np.asarray(counts), np.asarray(top)
    lost = np.broadcast_to(invalid, tops.shape)
    targets = np.broadcast_to(radii, tops.shape)
    certified = np.zeros(len(tops), dtype=bool)
    # What does not pass alone at alpha is not tried again; that can only lose.
    hopeful = (single.radius > 0) & (single.radius >= targets)
    while True:
        rest = np.flatnonzero(hopeful & ~certified)
        level = alpha / max(1, int((~certified).sum()))
        if method == "joint":
            found = _ordered_joint_radius(
                votes[rest], tops[rest], lost[rest], sigma, level, alpha / len(tops)
            )
        else:
            found = certify_counts(
                votes[rest], tops[rest], sigma=sigma, alpha=level, method=method, invalid=lost[rest]
            ).radius
        falls = rest[(found > 0) & (found >= targets[rest])]
        if not falls.size:
            return certified
        certified[falls] = True


def _ordered_joint_radius(
    counts: NDArray[np.int64],
    top: NDArray[np.int64],
    invalid: NDArray[np.int64],
    sigma: float,
    level: float,
    order: float,
) -> NDArray[np.float64]:
    """The joint radius at `level`, from the ordering that belongs to another level."""
    from tcertify.bounds._joint_kernel import joint_rows

    is_top = np.arange(counts.shape[1]) == top[:, None]
    k_a, k_b = counts[is_top], np.where(is_top, 0, counts).max(1, initial=0)
    rows = np.stack([k_a, k_b, counts.sum(1) + invalid], axis=1).astype(np.int64)
    distinct, where = np.unique(rows, axis=0, return_inverse=True)
    t = np.empty(len(distinct))
    z = np.full(len(distinct), max(-ndtri(order), 0.0))
    k_a, k_b, n = np.ascontiguousarray(distinct.T)
    joint_rows(k_a, k_b, n, np.full(len(distinct), level), z, t)
    radius: NDArray[np.float64] = np.where(t > 0, np.nextafter(sigma / 2 * t, -np.inf), 0.0)[where]
    return radius


def _share_at_least(
    values: NDArray[np.float64],
    flags: NDArray[np.bool_],
    levels: ArrayLike,
    name: str,
    alpha: float,
) -> Curve:
    level = _reals(name, levels)
    images, alpha = len(values), check_alpha("alpha", alpha)
    hits = np.sort(values[flags])
    count = len(hits) - np.searchsorted(hits, level, side="left")
    return Curve(
        level=level,
        share=count / images,
        lower=clopper_pearson_lower(count, images, alpha / 2),
        upper=clopper_pearson_upper(count, images, alpha / 2),
    )


def _checked(
    values: ArrayLike, correct: ArrayLike, name: str
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    reals, flags = _reals(name, values), np.asarray(correct)
    if flags.dtype != np.bool_:
        raise ValueError(f"`correct` must be bool, got {flags.dtype}.")
    if reals.ndim != 1 or reals.shape != flags.shape or not len(reals):
        raise ValueError(
            f"`{name}` and `correct` must be 1-d, equally long and not empty, "
            f"got shapes {reals.shape} and {flags.shape}."
        )
    return reals, flags


def _reals(name: str, values: Any) -> NDArray[np.float64]:
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        check_real(name, values)
    reals = array.astype(np.float64)
    bad = ~((reals >= 0) & (reals < np.inf))
    if bad.any():
        raise ValueError(f"`{name}` must be non-negative and finite, got {reals[bad].flat[0]}.")
    return reals
