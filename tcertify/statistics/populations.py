"""What certificates say about a whole population, or data set, their own failures included."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc

from tcertify._checks import check_alpha, check_non_negative, check_whole, check_whole_array
from tcertify.bounds import clopper_pearson_lower


def robust_share_lower(
    hits: ArrayLike, images: int, *, alpha: float, delta: float = 0.05
) -> NDArray[np.float64]:
    """At most the share of the population that is right and robust, with confidence 1 - delta.

    An image is right and robust at a radius when the smoothed classifier answers its label at
    every point closer than the radius. The images must be an independent sample of the population,
    the noise independent from image to image, the radius fixed beforehand. Wrong certificates are
    accounted for, and so is early stopping by whatever rule.

    Parameters
    ----------
    hits : array of whole numbers, any shape
        Images certified as their label at the radius; one number per radius.
    images : int
        All that were tried, abstentions and failures included.
    alpha : float
        Failure probability of each certificate.
    delta : float
        Failure probability of this bound, for each radius.

    Returns
    -------
    array of float64
        Shape of `hits`. Rounded down.

    Raises
    ------
    ValueError
        An argument out of its range.

    Notes
    -----
    If a share q is robust, an image is a hit with probability at most q + (1 - q) alpha. So
    q >= (p - alpha) / (1 - alpha), where Clopper and Pearson bound the probability p of a hit.

    Examples
    --------
    >>> robust_share_lower([380, 310], 500, alpha=0.001).round(3)
    array([0.726, 0.582])
    """
    k, images = _checked(hits, images)
    alpha, delta = check_alpha("alpha", alpha), check_alpha("delta", delta)
    share = (clopper_pearson_lower(k, images, delta) - alpha) / (1 - alpha)
    lower: NDArray[np.float64] = np.maximum(share * (1 - 1e-15) - 1e-15, 0.0)
    return lower


def robust_count_lower(
    hits: ArrayLike, images: int, *, alpha: float, delta: float = 0.05
) -> NDArray[np.int64]:
    """At most the number of these images that are right and robust, with confidence 1 - delta.

    It speaks of the images that were tried, however they were chosen, and says how many of them
    are robust, not which. The noise must be independent from image to image, the radius fixed
    beforehand.

    Parameters
    ----------
    hits, images, alpha, delta
        As for `robust_share_lower`.

    Returns
    -------
    array of int64
        Shape of `hits`.

    Notes
    -----
    If t images are robust, the hits are at most t and the wrong certificates of the others, whose
    number lies below a binomial variable of images - t trials at `alpha`. The bound is the
    smallest t that this does not reject at `delta`.

    Examples
    --------
    >>> robust_count_lower([380, 310], 500, alpha=0.001)
    array([379, 309])
    """
    k, images = _checked(hits, images)
    alpha, delta = check_alpha("alpha", alpha), check_alpha("delta", delta)
    # The largest w with P(Bin(images - k + w, alpha) >= w) > delta, which falls in w.
    low, high = np.zeros_like(k), k + 1
    while (high - low > 1).any():
        wrong = (low + high) // 2
        tail = betainc(np.maximum(wrong, 1), images - k + 1, alpha)
        plausible = (tail * (1 + 1e-9) > delta) | (wrong == 0)
        low, high = np.where(plausible, wrong, low), np.where(plausible, high, wrong)
    return np.asarray(k - low)


def population_sentence(
    radius: float, hits: int, images: int, *, alpha: float, delta: float = 0.05, top_k: int = 1
) -> str:
    """`robust_share_lower` in words, to be printed below a table of certified accuracy.

    With `top_k` above 1 the certificates are those of `certify_top_k` for the labels.

    >>> print(population_sentence(0.5, 310, 500, alpha=0.001))
    With 95 % confidence, the smoothed classifier is right and robust at radius 0.5 on at least 58.2 % of the population that the 500 images were drawn from: 310 of them were certified, each wrongly with probability at most 0.001.
    """  # noqa: E501
    radius = check_non_negative("radius", radius)
    share = float(robust_share_lower(hits, images, alpha=alpha, delta=delta))
    what = "the smoothed classifier is right and robust"
    if top_k > 1:
        what = f"the label stays among the {top_k} most probable classes"
    return (
        f"With {100 * (1 - delta):.10g} % confidence, {what}"
        f" at radius {radius:g} on at least {math.floor(1000 * share) / 10:.1f} % of the population"
        f" that the {images} images were drawn from: {hits} of them were certified,"
        f" each wrongly with probability at most {alpha:g}."
    )


def _checked(hits: ArrayLike, images: int) -> tuple[NDArray[np.int64], int]:
    images = check_whole("images", images)
    return check_whole_array("hits", hits, maximum=images), images
