"""Before the first sample: what n can certify at all."""

from __future__ import annotations

import math

from tcertify._checks import MAX_SAMPLES, check_alpha, check_choice, check_positive, check_whole
from tcertify.bounds.joint import MAX_SAMPLES as MAX_JOINT_SAMPLES
from tcertify.certificates import METHODS, certify_votes
from tcertify.votes import Votes


def largest_radius(n: int, alpha: float, sigma: float, *, method: str = "joint") -> float:
    """The radius that `n` samples certify when every vote is for one class.

    It is ``sigma * Phi^-1(alpha ** (1 / n))`` for CERTIFY and T-CERTIFY, and at most 0.002 sigma
    less for the joint bound; rounded down, and 0 where even unanimous votes certify nothing.

    Parameters
    ----------
    n : int
        Samples.
    alpha : float
        Failure probability, in (0, 1).
    sigma : float
        Standard deviation of the noise, positive.
    method : {"joint", "t-certify", "certify"}
        As for `certify_counts`.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        An argument out of its range.

    Examples
    --------
    >>> round(largest_radius(100_000, 0.001, 1.0, method="certify"), 4)
    3.8115
    """
    sigma = check_positive("sigma", sigma)
    return _unanimous(*_checked(n, alpha, method), sigma)


def smallest_useful_n(alpha: float, *, method: str = "joint") -> int:
    """The smallest n that can certify anything at `alpha`.

    For CERTIFY and T-CERTIFY it is the first whole number above log2(1 / alpha): unanimous votes
    bound p_A by ``alpha ** (1 / n)``, which must exceed 1/2. The joint bound spends a little less
    than alpha, so that it may need one vote more. Useful is the least word for it: at this n every
    single vote must agree, and the radius is tiny (see `largest_radius`).

    Parameters
    ----------
    alpha : float
        Failure probability, in (0, 1).
    method : {"joint", "t-certify", "certify"}
        As for `certify_counts`.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        An argument out of its range.

    Examples
    --------
    >>> smallest_useful_n(0.001), smallest_useful_n(0.5), smallest_useful_n(0.05)
    (10, 2, 5)
    """
    _, alpha, method = _checked(1, alpha, method)
    n = max(1, math.floor(-math.log2(alpha)) - 1)
    while _unanimous(n, alpha, method, 1.0) <= 0:
        n += 1
    return n


def check_useful(n: int, alpha: float, *, method: str = "joint") -> None:
    """Refuse a run of `n` samples per image that could never certify anything at `alpha`.

    Parameters
    ----------
    n : int
        Samples per image.
    alpha : float
        Failure probability, in (0, 1).
    method : {"joint", "t-certify", "certify"}
        As for `certify_counts`.

    Raises
    ------
    ValueError
        With the smallest useful n; or an argument out of its range.

    Examples
    --------
    >>> check_useful(10, 0.001)
    >>> check_useful(9, 0.001)
    Traceback (most recent call last):
    ...
    ValueError: n = 9 samples can never certify anything at alpha = 0.001, even if all votes \
agree: the smallest useful n is 10.
    """
    n, alpha, method = _checked(n, alpha, method)
    if _unanimous(n, alpha, method, 1.0) <= 0:
        raise ValueError(
            f"n = {n} samples can never certify anything at alpha = {alpha:g}, even if all votes "
            f"agree: the smallest useful n is {smallest_useful_n(alpha, method=method)}."
        )


def _checked(n: int, alpha: float, method: str) -> tuple[int, float, str]:
    method = check_choice("method", method, METHODS)
    most = MAX_JOINT_SAMPLES if method == "joint" else MAX_SAMPLES
    return check_whole("n", n, maximum=most), check_alpha("alpha", alpha), method


def _unanimous(n: int, alpha: float, method: str, sigma: float) -> float:
    votes = Votes.of([n, 0], 0)
    return float(certify_votes(votes, sigma=sigma, alpha=alpha, method=method).radius)
