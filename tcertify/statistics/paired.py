"""Two certifications of the same images: what one gains over the other, and whether by chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tcertify._checks import check_alpha, check_whole
from tcertify.bounds import clopper_pearson_lower, clopper_pearson_upper


@dataclass(frozen=True, eq=False)
class Gain:
    """What `certified_gain` found, one entry a radius.

    Attributes
    ----------
    radius, share, lower, upper : float64 arrays
        Certified accuracy of the second less that of the first, with its interval.
    gained, lost : int64 arrays
        Images that only the second certifies correctly, and images that only the first does.
    p_value : float64 array
        Of McNemar's exact test that both are equally accurate at this radius.
    """

    radius: NDArray[np.float64]
    share: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    gained: NDArray[np.int64]
    lost: NDArray[np.int64]
    p_value: NDArray[np.float64]


def certified_gain(
    before: ArrayLike, after: ArrayLike, radii: ArrayLike, *, alpha: float = 0.05
) -> Gain:
    """The difference of two certified accuracies over the same images, with an interval that
    holds the difference over the population with probability at least ``1 - alpha``, radius by
    radius, when the images are an independent sample.

    The difference is the probability that only the second is right less the probability that only
    the first is: each is bounded by Clopper-Pearson at ``alpha / 4`` on either side, so that the
    four bounds hold together (Bonferroni). The interval is exact and, by that union, wide.

    Parameters
    ----------
    before, after : array_like of float, shape (M,)
        Of each image, in the same order, the radius up to which it is certified as its true class,
        and -1 where it is certified as another class or abstained from.
    radii : array_like of float, shape (R,)
        Where to compare.
    alpha : float
        Failure probability of the interval, in (0, 1).

    Returns
    -------
    Gain

    Raises
    ------
    ValueError
        Arrays of different lengths or without an entry, or an `alpha` out of range.

    Examples
    --------
    >>> gain = certified_gain([0.2, -1.0, 0.5], [0.6, 0.1, 0.5], [0.0, 0.5])
    >>> gain.gained, gain.lost
    (array([1, 1]), array([0, 0]))
    """
    first, second = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise ValueError(
            "`before` and `after` must be 1-d, equally long and not empty, got shapes "
            f"{first.shape} and {second.shape}."
        )
    levels = np.atleast_1d(np.asarray(radii, np.float64))
    is_first, is_second = (values >= levels[:, None] for values in (first, second))
    gained, lost = (is_second & ~is_first).sum(1), (is_first & ~is_second).sum(1)
    images, level = len(first), check_alpha("alpha", alpha) / 4
    lower = [clopper_pearson_lower(count, images, level) for count in (gained, lost)]
    upper = [clopper_pearson_upper(count, images, level) for count in (gained, lost)]
    return Gain(
        radius=levels,
        share=(gained - lost) / images,
        lower=lower[0] - upper[1],
        upper=upper[0] - lower[1],
        gained=gained,
        lost=lost,
        p_value=np.array([mcnemar_exact(*pair) for pair in zip(gained, lost, strict=True)]),
    )


def mcnemar_exact(gained: int, lost: int) -> float:
    """The two-sided p-value of McNemar's exact test: under the hypothesis that two certifications
    are equally accurate, it is at most p with probability at most p.

    Of the images on which the two differ, each falls to either side with probability 1/2; images
    on which they agree say nothing.

    Parameters
    ----------
    gained, lost : int
        Images that only the second, and that only the first certifies correctly.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        A count that is negative or not whole.

    Examples
    --------
    >>> mcnemar_exact(6, 0), mcnemar_exact(0, 0)
    (0.03125, 1.0)
    """
    from scipy.stats import binomtest  # half a second to load

    first = check_whole("gained", gained, minimum=0)
    differ = first + check_whole("lost", lost, minimum=0)
    return float(binomtest(first, differ, 0.5).pvalue) if differ else 1.0
