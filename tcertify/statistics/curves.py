"""Summaries of many certificates: curves over images, and their mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tcertify._checks import check_alpha, check_non_negatives, check_probabilities, check_whole
from tcertify.bounds import clopper_pearson_lower, clopper_pearson_upper


@dataclass(frozen=True, eq=False)
class Curve:
    """The share of images at or above each of some thresholds, with its exact interval.

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

    About one minus the distribution function of p_A, a wrong answer counted as p_A = 0. p_A is a
    probability under noise of the run's sigma, so compare runs of one sigma only. It changes
    little with n, while the average certified radius is ruled by the few easy images whose radius
    grows with n (arXiv 2410.06895). In a run that stopped early the lower bounds are those of the
    look where each image stopped, and lie below what the full run would give. The interval, the
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
    values, flags = _checked(check_probabilities("p_a_lower", p_a_lower), correct, "p_a_lower")
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
        Seed of the resampling; equal seeds give equal intervals.

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


def _share_at_least(
    values: NDArray[np.float64],
    flags: NDArray[np.bool_],
    levels: ArrayLike,
    name: str,
    alpha: float,
) -> Curve:
    level = check_non_negatives(name, levels)
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
    reals, flags = check_non_negatives(name, values), np.asarray(correct)
    if flags.dtype != np.bool_:
        raise ValueError(f"`correct` must be bool, got {flags.dtype}.")
    if reals.ndim != 1 or reals.shape != flags.shape or not len(reals):
        raise ValueError(
            f"`{name}` and `correct` must be 1-d, equally long and not empty, "
            f"got shapes {reals.shape} and {flags.shape}."
        )
    return reals, flags
