"""How much a table owes to its alpha: the same votes certified over many of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tcertify._checks import (
    check_alphas,
    check_choice,
    check_non_negatives,
    check_positive,
    check_whole_array,
)
from tcertify.certificates import METHODS, certify_votes
from tcertify.votes import Votes

#: From the largest in use to one at which a million certificates are expected to hold.
ALPHAS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)


@dataclass(frozen=True, eq=False)
class AlphaCurve:
    """What a table would be at other alphas.

    Attributes
    ----------
    alpha : array of float64, shape (A,)
    average_certified_radius : array of float64, shape (A,)
        Mean radius, 0 where wrong or abstained.
    radii : array of float64, shape (R,)
    certified_accuracy : array of float64, shape (A, R)
        Share of images right and certified at each radius; at 0, certified at all.
    """

    alpha: NDArray[np.float64]
    average_certified_radius: NDArray[np.float64]
    radii: NDArray[np.float64]
    certified_accuracy: NDArray[np.float64]


def alpha_curve(
    votes: Votes,
    label: ArrayLike,
    *,
    sigma: float,
    radii: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    alphas: Sequence[float] = ALPHAS,
    method: str = "joint",
) -> AlphaCurve:
    """The average certified radius and certified accuracy of the same votes at each alpha.

    Each alpha's certificates are wrong with probability at most that alpha, per image. A curve that
    is flat says that the table does not rest on a lenient alpha.

    Parameters
    ----------
    votes : Votes of shape (M,)
    label : array of whole numbers, shape (M,)
        The true classes.
    sigma, method
        As for `certify_counts`.
    radii : sequence of float
        Where to read certified accuracy.
    alphas : sequence of float
        Each in (0, 1).

    Returns
    -------
    AlphaCurve

    Raises
    ------
    ValueError
        An argument out of its range, or shapes that do not fit.

    Examples
    --------
    >>> votes = Votes.of([[990, 10], [800, 200]], [0, 0])
    >>> curve = alpha_curve(votes, [0, 0], sigma=0.5, radii=[0.5], alphas=[0.1, 0.001])
    >>> curve.average_certified_radius.round(3), curve.certified_accuracy.tolist()
    (array([0.736, 0.67 ]), [[0.5], [0.5]])
    """
    sigma, method = check_positive("sigma", sigma), check_choice("method", method, METHODS)
    at, levels = check_non_negatives("radii", radii), check_alphas("alphas", alphas)
    labels = check_whole_array("label", label)
    if votes.top.ndim != 1 or labels.shape != votes.top.shape or not len(labels):
        raise ValueError(
            f"`label` must have the shape (M,) of the votes, got {labels.shape} for"
            f" {votes.top.shape}."
        )
    right = votes.top == labels
    radius = np.stack(
        [
            certify_votes(votes, sigma=sigma, alpha=float(level), method=method).radius * right
            for level in levels
        ]
    )
    reached = (radius[..., None] > 0) & (radius[..., None] >= at)
    return AlphaCurve(levels, radius.mean(1), at, reached.mean(1))
