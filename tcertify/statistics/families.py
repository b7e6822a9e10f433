"""What holds for many certificates at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tcertify._checks import (
    check_alpha,
    check_choice,
    check_non_negatives,
    check_positive,
    check_whole,
)
from tcertify.certificates import METHODS, certify_votes
from tcertify.statistics.reported import keeps
from tcertify.votes import Votes


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
    gives the exact bound this property, and what is computed lies below the exact bound.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979) 65-70; Goeman and Solari, Annals of
    Statistics 38 (2010) 3782-3810.

    Examples
    --------
    >>> votes = [[990, 10], [905, 95], [700, 300]]
    >>> certify_family(votes, [0, 0, 0], 0.5, sigma=0.5, alpha=0.001)
    array([ True,  True, False])
    """
    alpha, sigma = check_alpha("alpha", alpha), check_positive("sigma", sigma)
    method = check_choice("method", method, METHODS)
    votes = Votes.of(counts, top, invalid)
    if votes.top.ndim != 1:
        raise ValueError(f"`counts` must have shape (M, C), got {votes.counts.shape}.")
    radii = check_non_negatives("radius", radius)
    if radii.shape not in ((), votes.top.shape):
        raise ValueError(f"`radius` must have shape {votes.top.shape}, got {radii.shape}.")
    targets = np.broadcast_to(radii, votes.top.shape)
    order = alpha / max(1, len(votes))

    def falls(wanted: NDArray[np.bool_], level: float) -> NDArray[np.bool_]:
        found = np.zeros(len(votes), dtype=bool)
        made = certify_votes(votes[wanted], sigma=sigma, alpha=level, method=method, order=order)
        found[wanted] = keeps(made.radius, targets[wanted])
        return found

    return step_down(falls(np.ones(len(votes), dtype=bool), alpha), alpha, falls)


def step_down(
    alone: NDArray[np.bool_],
    alpha: float,
    falls: Callable[[NDArray[np.bool_], float], NDArray[np.bool_]],
) -> NDArray[np.bool_]:
    """Which hypotheses fall in Holm's test at `alpha`.

    Parameters
    ----------
    alone : array of bool, shape (M,)
        Which of them fall by themselves at the whole of `alpha`. The others are not tried again,
        which can only lose.
    alpha : float
        Of the whole family.
    falls : function
        Given which of them to test, (M,), and a level, it returns which of these fall at the
        level, (M,); each true one with probability at most the level, and at every higher level
        where it does at one.
    """
    fallen = np.zeros_like(alone)
    while (rest := alone & ~fallen).any():
        falling = falls(rest, alpha / int((~fallen).sum()))
        if not falling.any():
            break
        fallen |= falling
    return fallen
