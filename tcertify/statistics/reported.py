"""Certificates that are reported because they turned out well: the false coverage rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tcertify._checks import check_real, check_whole_array
from tcertify.certificates import Certificates, certify_votes
from tcertify.votes import Votes


@dataclass(frozen=True, eq=False)
class Reported:
    """The certificates worth reporting, and what they say.

    Attributes
    ----------
    kept : array of bool, shape (M,)
        The images whose certificate at `alpha` reached the radius.
    level : float
        ``alpha`` times their share of all images: the failure probability of each certificate
        below.
    certificates : Certificates
        Those of the kept images, in their order, at `level`. Few of their radii are below the
        one that was asked for; one that is 0 abstains, and is not wrong.
    alpha : float
        Bounds the expected share of wrong certificates among the kept ones.
    """

    kept: NDArray[np.bool_]
    level: float
    certificates: Certificates
    alpha: float


def certify_reported(
    votes: Votes,
    certificates: Certificates,
    radius: float = 0.0,
    *,
    label: ArrayLike | None = None,
) -> Reported:
    """Certify the images worth reporting: of these, a share of at most alpha is wrong on average.

    A certificate is wrong with probability at most alpha *before* its votes are drawn. Among those
    that came out well the share of wrong ones is larger. Here R of M images are kept, each because
    its own certificate at alpha reaches `radius`, and certified at ``alpha R / M``: then the
    expected share of wrong certificates among the kept (0 where none is) is at most alpha.

    Parameters
    ----------
    votes : Votes of shape (M,)
        All images that were tried, abstentions included; their noise independent.
    certificates : Certificates of shape (M,)
        Those of `votes`, each from its own votes at alpha, as `certify_counts` gives them.
    radius : float
        Fixed before the votes were seen. 0 keeps every image that is certified at all.
    label : array of whole numbers, shape (M,), optional
        Keep only images that are certified as their label: those that certified accuracy counts.

    Returns
    -------
    Reported

    Raises
    ------
    ValueError
        Certificates or labels that do not fit the votes, or a radius out of its range. A rule such
        as "the 10 largest radii" looks at other images, and no argument can express it.

    Notes
    -----
    Source: Benjamini and Yekutieli, JASA 100 (2005) 71-81, Theorem 1. The proof needs votes that
    are independent from image to image. Where samples were spread over the images by what their
    votes showed, they are not: what one image gets depends on the others.

    Examples
    --------
    >>> votes = Votes.of([[990, 10], [950, 50], [500, 500], [300, 700]], [0, 0, 0, 0])
    >>> alone = certify_votes(votes, sigma=0.5, alpha=0.001, method="joint")
    >>> found = certify_reported(votes, alone, 0.5)
    >>> found.kept, found.level, found.certificates.radius.round(2)
    (array([ True,  True, False, False]), 0.0005, array([0.98, 0.71]))
    """
    radius = check_target(radius, "radius")
    if votes.top.ndim != 1:
        raise ValueError(f"`votes` must have shape (M,), got {votes.top.shape}.")
    if not np.array_equal(certificates.n, votes.n):
        raise ValueError("`certificates` must be those of `votes`, got other numbers of samples.")
    kept = keeps(certificates.radius, radius)
    if label is not None:
        labels = check_whole_array("label", label, maximum=votes.counts.shape[-1] - 1)
        if labels.shape != votes.top.shape:
            raise ValueError(f"`label` must have shape {votes.top.shape}, got {labels.shape}.")
        kept &= labels == votes.top
    alpha = certificates.alpha
    level = reported_level(int(kept.sum()), len(kept), alpha)
    found = certify_votes(
        votes[kept], sigma=certificates.sigma, alpha=level, method=certificates.method
    )
    return Reported(kept, level, found, alpha)


def check_target(radius: Any, name: str) -> float:
    """Return the radius that an image must reach by itself, at least 0 and finite."""
    try:
        target = check_real(name, radius)
    except ValueError:
        target = np.nan
    if not 0 <= target < np.inf:
        raise ValueError(
            f"`{name}` must be one number, at least 0, that each image reaches or misses by its own"
            f" votes, got {radius!r}: a rule that looks at other images has no guarantee."
        )
    return target


def keeps(radii: NDArray[np.float64], radius: float | NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which certificates reach the radius: at 0, those that certify anything."""
    return (radii > 0) & (radii >= radius)


def reported_level(kept: int, images: int, alpha: float) -> float:
    """Alpha times the share kept; that of one image where none is kept."""
    return alpha * max(kept, 1) / images
