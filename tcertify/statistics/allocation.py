"""Samples where they matter: how many each image gets, planned from its selection sample.

Nothing here can make a certificate wrong: a plan looks at the selection sample alone, which is
independent of the votes that certify.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tcertify._checks import check_alpha, check_real, check_whole
from tcertify.bounds._approximate import approximate_lower
from tcertify.statistics.stopping import Schedule
from tcertify.votes import Votes

Floats = NDArray[np.float64]

#: Logs of prices at which all, or no, samples are worth it; how often their distance is halved.
_LEAST_LOG_PRICE, _MOST_LOG_PRICE, _HALVINGS = -60.0, 10.0, 50

#: A price a little higher, and one a little lower: what images on the brink of two sizes choose by.
_SIDES = (1 + 1e-9, 1 - 1e-9)

#: 2^32, and 2^32 over the golden ratio.
_TURN, _GOLDEN = np.uint64(2**32), np.uint64(2_654_435_769)


def plan_for_loss(
    selection: Votes,
    sizes: ArrayLike,
    *,
    alpha: float,
    radius_loss: float,
    wanted: ArrayLike = True,
) -> NDArray[np.int64]:
    """The fewest samples at which an image keeps its radius but for a share of `radius_loss`, as
    its selection sample predicts.

    Each image is certified once, from as many fresh samples as planned, at the whole of alpha:
    since the plan does not look at these, its certificate is wrong with probability at most alpha,
    as with any fixed number. The plan of an image looks at no other image.

    Parameters
    ----------
    selection : Votes of shape (M,)
        Votes of the selection samples, ``top`` being their class of most votes.
    sizes : array of whole numbers, increasing
        Numbers of samples to choose from; the last is the full n.
    alpha : float
        Failure probability of each certificate.
    radius_loss : float
        In (0, 1).
    wanted : array of bool, shape (M,)
        False for images whose radius is not needed, such as those whose class is not the label:
        they take ``sizes[0]``.

    Returns
    -------
    array of int64, shape (M,)
        One of `sizes` for each image.

    Raises
    ------
    ValueError
        An argument out of its range.

    Notes
    -----
    Images that the selection sample takes for hopeless get the smallest size. So a plan serves the
    average certified radius, not certified accuracy at radius 0. The idea of an input's own sample
    size is that of Chen et al., AAAI 2022 (arXiv:2112.12084).

    Examples
    --------
    >>> pilot = Votes.of([[100, 0], [80, 20], [55, 45]], [0, 0, 0])
    >>> plan_for_loss(pilot, [1_000, 10_000, 100_000], alpha=0.001, radius_loss=0.05)
    array([100000,  10000, 100000])
    """
    n, alpha = check_sizes(sizes), check_alpha("alpha", alpha)
    gap = _expected_gaps(selection, n, alpha) * np.asarray(wanted)[..., None]
    enough = gap >= (1 - check_loss(radius_loss)) * gap[:, -1:]
    planned: NDArray[np.int64] = n[enough.argmax(axis=1)]
    return planned


def plan_for_budget(
    selection: Votes,
    sizes: ArrayLike,
    *,
    alpha: float,
    budget: int,
    wanted: ArrayLike = True,
) -> NDArray[np.int64]:
    """The samples of each image that serve the mean radius best within a budget for all of them.

    As `plan_for_loss`, but that the plan of an image depends on the selection samples of all:
    samples are spread so that one more would gain about the same radius at every image.

    Parameters
    ----------
    selection, sizes, alpha, wanted
        As for `plan_for_loss`.
    budget : int
        The most samples in all; at least ``sizes[0]`` per image.

    Returns
    -------
    array of int64, shape (M,)
        One of `sizes` for each image.

    Raises
    ------
    ValueError
        An argument out of its range, or a budget below the smallest size for every image.

    Examples
    --------
    >>> pilot = Votes.of([[100, 0], [80, 20], [55, 45]], [0, 0, 0])
    >>> plan_for_budget(pilot, [1_000, 10_000, 100_000], alpha=0.001, budget=120_000)
    array([100000,  10000,  10000])
    """
    ids = np.arange(len(selection))
    price = price_of_budget(selection, sizes, ids, alpha=alpha, budget=budget, wanted=wanted)
    return plan_at_price(selection, sizes, ids, alpha=alpha, price=price, wanted=wanted)


@dataclass(frozen=True)
class Price:
    """What a sample must gain, as a bound on t, to be taken. At that very price so large a share of
    the images that are on the brink take the larger of their two sizes.
    """

    of_sample: float
    share: float


def price_of_budget(
    selection: Votes,
    sizes: ArrayLike,
    image_ids: ArrayLike,
    *,
    alpha: float,
    budget: int,
    wanted: ArrayLike = True,
) -> Price:
    """Return the price at which the plan of these images just keeps to a budget."""
    n, alpha = check_sizes(sizes), check_alpha("alpha", alpha)
    check_budget(budget, len(selection), int(n[0]))
    gap = _expected_gaps(selection, n, alpha) * np.asarray(wanted)[..., None]
    low, high = _LEAST_LOG_PRICE, _MOST_LOG_PRICE
    if n[_sizes_at(gap, n, np.exp(low))].sum() <= budget:
        high = low  # all samples are worth it
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        too_low = n[_sizes_at(gap, n, np.exp(middle))].sum() > budget
        low, high = (middle, high) if too_low else (low, middle)
    price = float(np.exp((low + high) / 2))
    few, many = (n[_sizes_at(gap, n, price * side)] for side in _SIDES)
    place = _places(image_ids)
    on_the_brink = np.flatnonzero(many > few)
    first = on_the_brink[np.argsort(place[on_the_brink])]
    paid = np.searchsorted(np.cumsum((many - few)[first]), budget - few.sum(), side="right")
    return Price(price, float(place[first[paid]]) if paid < len(first) else 1.0)


def plan_at_price(
    selection: Votes,
    sizes: ArrayLike,
    image_ids: ArrayLike,
    *,
    alpha: float,
    price: Price,
    wanted: ArrayLike = True,
) -> NDArray[np.int64]:
    """Return one of `sizes` for each image: the one beyond which no sample gains the price."""
    n, alpha = check_sizes(sizes), check_alpha("alpha", alpha)
    gap = _expected_gaps(selection, n, alpha) * np.asarray(wanted)[..., None]
    few, many = (n[_sizes_at(gap, n, price.of_sample * side)] for side in _SIDES)
    planned: NDArray[np.int64] = np.where(_places(image_ids) < price.share, many, few)
    return planned


def _sizes_at(gap: Floats, n: NDArray[np.int64], price: float) -> NDArray[np.intp]:
    size: NDArray[np.intp] = np.argmax(gap - price * n, axis=1)
    return size


def _places(image_ids: ArrayLike) -> Floats:
    """Return places in [0, 1) that spread any run of images evenly."""
    spread: Floats = (np.asarray(image_ids, np.uint64) * _GOLDEN % _TURN) / _TURN
    return spread


def check_budget(budget: int, images: int, first: int) -> int:
    """Return a budget of estimation samples that is enough for a first look at every image."""
    budget, least = check_whole("budget", budget), images * first
    if budget < least:
        raise ValueError(
            f"`budget` must be at least {least}, a first look of {first} samples for each of"
            f" {images} images, got {budget}."
        )
    return budget


def _expected_gaps(votes: Votes, n: NDArray[np.int64], alpha: float) -> Floats:
    """About the bound on t, at least 0, for each image and number of samples, shape (M, len(n))."""
    times = n / votes.n[:, None]
    gap = approximate_lower(votes.k_a[:, None] * times, votes.k_b[:, None] * times, n, alpha)
    return np.maximum(gap, 0.0)


def plan_sizes(n: int, alpha: float) -> tuple[int, ...]:
    """Return the numbers of samples that a run chooses from: from about 1,000 up to `n`."""
    return Schedule.geometric(n, alpha, first=1000).looks


def check_sizes(sizes: ArrayLike) -> NDArray[np.int64]:
    """Return numbers of samples to choose from, which must be whole and increasing."""
    n = np.array([check_whole("sizes", size) for size in np.ravel(sizes).tolist()], dtype=np.int64)
    if not len(n) or (np.diff(n) <= 0).any():
        raise ValueError(f"`sizes` must be increasing, got {n.tolist()}.")
    return n


def check_loss(loss: float) -> float:
    """Return the share of a radius that may be lost, as a float."""
    if not 0 < check_real("radius_loss", loss) < 1:
        raise ValueError(f"`radius_loss` must be in (0, 1), got {loss}.")
    return float(loss)
