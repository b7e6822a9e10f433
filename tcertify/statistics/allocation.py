"""Where samples matter: a plan from the selection sample, or the cells likeliest to change.

Nothing here can make a certificate wrong. A plan looks at the selection sample alone, which is
independent of the votes that certify. And where votes decide on the fly, the levels of a `Schedule`
are fixed for each image before its first sample: its running best radius fails with probability at
most the schedule's alpha whoever decides, by whatever rule, how far each image goes. So the rules
may look at all images; they only guess what further samples would bring.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from tcertify._checks import check_alpha, check_real, check_whole
from tcertify.bounds._approximate import approximate_lower, deviation
from tcertify.statistics.stopping import Schedule
from tcertify.votes import Votes

Floats = NDArray[np.float64]

_HALVINGS = 50


def plan_samples(
    selection: Votes,
    sizes: ArrayLike,
    *,
    alpha: float,
    radius_loss: float | None = None,
    budget: int | None = None,
    wanted: ArrayLike = True,
) -> NDArray[np.int64]:
    """The samples of each image that serve the mean radius best, from its selection sample.

    Each image is certified once, from as many fresh samples as planned, at the whole of alpha:
    since the plan does not look at these, its certificate is wrong with probability at most alpha,
    as with any fixed number. Samples are spread so that one more would gain about the same radius
    at every image.

    Parameters
    ----------
    selection : Votes of shape (M,)
        Votes of the selection samples, ``top`` being their class of most votes.
    sizes : array of whole numbers, increasing
        Numbers of samples to choose from; the last is the full n.
    alpha : float
        Failure probability of each certificate.
    radius_loss : float, optional
        In (0, 1): the fewest samples whose predicted mean radius is at least ``1 - radius_loss``
        times that of the full n.
    budget : int, optional
        The most samples in all; at least ``sizes[0]`` per image. One of the two must be given.
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
        An argument out of its range, both of `radius_loss` and `budget` or neither, or a budget
        below the smallest size for every image.

    Notes
    -----
    Images that the selection sample takes for hopeless get the smallest size. So a plan serves the
    average certified radius, not certified accuracy at radius 0. The idea of an input's own sample
    size is that of Chen et al., AAAI 2022 (arXiv:2112.12084).

    Examples
    --------
    >>> pilot = Votes.of([[100, 0], [80, 20], [55, 45]], [0, 0, 0])
    >>> plan_samples(pilot, [1_000, 10_000, 100_000], alpha=0.001, radius_loss=0.05)
    array([100000,  10000,  10000])
    """
    n = _checked_sizes(sizes)
    alpha = check_alpha("alpha", alpha)
    if (radius_loss is None) == (budget is None):
        raise ValueError("`radius_loss` or `budget` must be given, and not both.")
    loss = _checked_loss(radius_loss)
    if budget is not None:
        check_budget(budget, len(selection), int(n[0]))
    gap = _expected_gaps(selection, n, alpha) * np.asarray(wanted)[..., None]
    enough = (1 - loss) * gap[:, -1].sum()
    rows = np.arange(len(gap))

    def at_price(log_price: float) -> NDArray[np.intp]:
        size: NDArray[np.intp] = np.argmax(gap - np.exp(log_price) * n, axis=1)
        return size

    def suffices(size: NDArray[np.intp]) -> bool:
        """Whether the samples are at least what is asked for: a price too low."""
        if budget is None:
            return bool(gap[rows, size].sum() >= enough)
        return bool(n[size].sum() > budget)

    low, high = -60.0, 10.0  # logs of a price at which all, or no, samples are worth it
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if suffices(at_price(middle)) else (low, middle)
    few, many = at_price(high), at_price(low)
    # Images of like votes change their size at one price: only so many of them as are needed.
    if budget is None:
        first = np.argmax(_running(gap[rows, few], gap[rows, many]) >= enough)
    else:
        first = np.searchsorted(_running(n[few], n[many]), budget, side="right") - 1
    planned: NDArray[np.int64] = n[np.where(rows < first, many, few)]
    return planned


def _running(before: NDArray[Any], after: NDArray[Any]) -> NDArray[Any]:
    """The sum of `before`, and that sum when its first 1, 2, ... are those of `after`."""
    running: NDArray[Any] = before.sum() + np.concatenate([[0], np.cumsum(after - before)])
    return running


def chance_per_sample(
    votes: Votes, look: ArrayLike, radii: ArrayLike, *, schedule: Schedule, sigma: float
) -> Floats:
    """The best chance per sample that further looks lift an image to its next cell; a guess.

    The next cell begins at the smallest radius that a certificate of the present look would miss.
    For every look to come: the probability that the certificate there reaches it, by the normal
    spread of the votes to come, over the samples up to it. The largest of these ranks the images
    when a budget is spent: the next samples go to the image of the largest.

    Parameters
    ----------
    votes : Votes of shape (S,)
        All votes of each image so far.
    look : whole number or array of them, shape (S,)
        The look that each image is at.
    radii : sequence of float
        Radii at which certified accuracy will be read, increasing.
    schedule : Schedule
    sigma : float

    Returns
    -------
    array of float64, shape (S,)
        0 at the last look, and beyond the largest radius.
    """
    n, levels = np.asarray(schedule.looks, dtype=np.float64), np.asarray(schedule.levels)
    at = np.broadcast_to(np.asarray(look), votes.top.shape)
    here = approximate_lower(votes.k_a, votes.k_b, votes.n, levels[at])
    target = 2 / sigma * _next_target(sigma / 2 * here, np.asarray(radii, dtype=np.float64))
    seen = votes.n[:, None]
    to_come = np.maximum(n - seen, 1)
    expected = approximate_lower(
        votes.k_a[:, None] * (n / seen), votes.k_b[:, None] * (n / seen), n, levels
    )
    spread = deviation(votes.k_a, votes.k_b, votes.n)[:, None] * np.sqrt(to_come / (n * seen))
    chance = ndtr((expected - target[:, None]) / spread)
    best: Floats = np.where(np.arange(len(n)) > at[:, None], chance / to_come, 0.0).max(-1)
    return best


def _next_target(radius: Floats, radii: Floats) -> Floats:
    """The smallest of increasing `radii` that each radius misses; infinity where there is none."""
    reached = np.where(radius > 0, np.searchsorted(radii, radius, side="right"), 0)
    target: Floats = np.append(radii, np.inf)[reached]
    return target


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


def _checked_sizes(sizes: ArrayLike) -> NDArray[np.int64]:
    n = np.array([check_whole("sizes", size) for size in np.ravel(sizes).tolist()], dtype=np.int64)
    if not len(n) or (np.diff(n) <= 0).any():
        raise ValueError(f"`sizes` must be increasing, got {n.tolist()}.")
    return n


def _checked_loss(loss: float | None) -> float:
    if loss is not None and not 0 < check_real("radius_loss", loss) < 1:
        raise ValueError(f"`radius_loss` must be in (0, 1), got {loss}.")
    return 0.0 if loss is None else float(loss)
