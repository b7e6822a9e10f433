"""From vote counts to certificates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc

from tcertify._checks import check_alpha, check_positive, check_real, check_whole_array
from tcertify.bounds import (
    clopper_pearson_lower,
    clopper_pearson_lower_complement,
    clopper_pearson_upper,
    joint_lower,
    multiclass_upper,
)
from tcertify.radius import l2_radius_lower

#: The label of a certificate that certifies nothing.
ABSTAIN = -1

#: The published search grid of T-CERTIFY: alpha' as fractions of alpha.
GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True, eq=False)
class Certificates:
    """What the counts of many inputs certify; every array has the shape of the inputs.

    With probability at least ``1 - alpha`` over the noise, per input, no perturbation of l2 norm
    below ``radius`` changes the smoothed classifier's answer ``label``.

    Attributes
    ----------
    label : array of int64
        The certified class, or `ABSTAIN` (-1).
    radius : array of float64
        Certified l2 radius in the units of the input, rounded down; 0 where it abstains.
    p_a_lower, p_b_upper : array of float64
        For ``"certify"`` and ``"t-certify"`` the two bounds that the radius is made of. The joint
        method bounds ``Phi^-1(p_A) - Phi^-1(p_B)`` at once; for it these are the one-sided
        bounds at ``alpha`` each, given for information.
    n : array of int64
        Votes behind each certificate, invalid ones included.
    method : str
    alpha : float
        Failure probability of each certificate.
    sigma : float
        Standard deviation of the noise that the votes were cast under.
    """

    label: NDArray[np.int64]
    radius: NDArray[np.float64]
    p_a_lower: NDArray[np.float64]
    p_b_upper: NDArray[np.float64]
    n: NDArray[np.int64]
    method: str
    alpha: float
    sigma: float

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: Any) -> Certificates:
        """The certificates of a part of the inputs."""
        arrays = ("label", "radius", "p_a_lower", "p_b_upper", "n")
        return replace(self, **{name: getattr(self, name)[index] for name in arrays})


def certify_counts(
    counts: ArrayLike,
    top: ArrayLike,
    *,
    sigma: float,
    alpha: float = 0.001,
    method: str = "joint",
    grid: Sequence[float] = GRID,
    invalid: ArrayLike = 0,
) -> Certificates:
    """Certify from vote counts: each certificate is wrong with probability at most `alpha`.

    The guarantee needs `top` to be independent of `counts`: choose it from a separate selection
    sample. Every method abstains where the counts do not support a positive radius.

    Parameters
    ----------
    counts : array of whole numbers, shape (..., C)
        Votes for each of C >= 2 classes, under Gaussian noise of standard deviation `sigma`.
    top : array of whole numbers, shape (...)
        The class to certify for each input, in [0, C).
    sigma : float
        Positive, in the units of the input.
    alpha : float
        Failure probability in (0, 1), one-sided, per input.
    method : {"joint", "t-certify", "certify"}
        ``"joint"`` bounds ``Phi^-1(p_A) - Phi^-1(p_B)`` by one exact test at the whole of `alpha`
        and certifies below p_A = 0.5 too (docs/statistics.md). ``"t-certify"`` splits `alpha`
        between p_A and p_B and takes the best split of `grid` (Feng et al. 2020, Algorithm 2); it
        is never below ``"certify"`` while 1 is in the grid. ``"certify"`` takes ``1 - p_A`` for
        p_B (Cohen et al. 2019).
    grid : sequence of float
        Fractions of `alpha` in (0, 1] that T-CERTIFY spends on p_A; 1 stands for CERTIFY.
    invalid : array of whole numbers, shape (...)
        Votes that no class received (NaN logits). They count as votes against every class.

    Returns
    -------
    Certificates

    Raises
    ------
    ValueError
        Counts negative, not whole or summing to 0; `top` outside [0, C); sigma, alpha or grid
        out of range; an unknown method.

    Notes
    -----
    Radii are rounded down, so a radius is at most the exact real number.

    Examples
    --------
    >>> result = certify_counts([[5, 985, 10]], [1], sigma=0.5)
    >>> result.label, result.radius.round(3)
    (array([1]), array([0.965]))
    """
    sigma = check_positive("sigma", sigma)
    alpha = check_alpha(alpha)
    grid = _check_grid(grid)
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {', '.join(METHODS)}, got {method!r}.")
    votes = _split_votes(counts, top, invalid)
    found = _METHODS[method](votes, sigma, alpha, grid)
    return Certificates(
        label=np.where(found.radius > 0, votes.top, ABSTAIN),
        radius=found.radius,
        p_a_lower=found.p_a,
        p_b_upper=found.p_b,
        n=votes.n,
        method=method,
        alpha=alpha,
        sigma=sigma,
    )


def predict_counts(counts: ArrayLike, alpha: float) -> NDArray[np.int64]:
    """Return the class of most votes, or `ABSTAIN` where the vote is too close.

    A class other than the most probable one is returned with probability at most `alpha`
    (Hung and Fithian 2019).

    Parameters
    ----------
    counts : array of whole numbers, shape (..., C)
        Votes for each of C >= 2 classes.
    alpha : float
        Failure probability in (0, 1).

    Examples
    --------
    >>> predict_counts([[80, 20, 0], [52, 48, 0]], alpha=0.001)
    array([ 0, -1])
    """
    votes = check_whole_array("counts", counts)
    alpha = check_alpha(alpha)
    second, first = np.moveaxis(np.sort(votes, axis=-1)[..., -2:], -1, 0)
    # P(Bin(m, 1/2) >= first), doubled; the factor keeps rounding in betainc on the safe side.
    tail = betainc(np.maximum(first, 1), second + 1, 0.5)
    p_value = np.where(first > second, 2 * tail * (1 + 1e-9), 1.0)
    return np.where(p_value <= alpha, votes.argmax(-1), ABSTAIN)


class _Votes(NamedTuple):
    top: NDArray[np.int64]
    k_a: NDArray[np.int64]
    others: NDArray[np.int64]
    n: NDArray[np.int64]


class _Bounds(NamedTuple):
    p_a: NDArray[np.float64]
    p_b: NDArray[np.float64]
    radius: NDArray[np.float64]


def _joint(votes: _Votes, sigma: float, alpha: float, _: tuple[float, ...]) -> _Bounds:
    """The whole of alpha on Phi^-1(p_A) - Phi^-1(p_B): docs/statistics.md."""
    k_b = votes.others.max(-1)
    t = joint_lower(votes.k_a, k_b, votes.n, alpha)
    radius = np.where(t > 0, np.nextafter(sigma / 2 * t, -np.inf), 0.0)
    p_a = clopper_pearson_lower(votes.k_a, votes.n, alpha)
    return _Bounds(p_a, clopper_pearson_upper(k_b, votes.n, alpha), radius)


def _certify(votes: _Votes, sigma: float, alpha: float, _: tuple[float, ...]) -> _Bounds:
    """p_B = 1 - p_A: Cohen et al. 2019."""
    p_a, q_a = _bounds_of_top(votes, alpha)
    return _Bounds(p_a, q_a, _radius(p_a, q_a, q_a, sigma))


def _t_certify(votes: _Votes, sigma: float, alpha: float, grid: tuple[float, ...]) -> _Bounds:
    """The best split of alpha between p_A and p_B: Feng et al. 2020, Algorithm 2."""
    splits = [_split(votes, sigma, alpha, share) for share in grid]
    best = np.argmax([split.radius for split in splits], axis=0)
    return _Bounds(*(np.choose(best, column) for column in zip(*splits, strict=True)))


def _split(votes: _Votes, sigma: float, alpha: float, share: float) -> _Bounds:
    if share == 1:
        return _certify(votes, sigma, alpha, ())
    p_a, q_a = _bounds_of_top(votes, share * alpha)
    p_b = np.minimum(multiclass_upper(votes.others, votes.n, alpha - share * alpha), q_a)
    return _Bounds(p_a, p_b, _radius(p_a, q_a, p_b, sigma))


def _bounds_of_top(votes: _Votes, alpha: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lower bound of p_A and, with all its digits, the upper bound of 1 - p_A."""
    return (
        clopper_pearson_lower(votes.k_a, votes.n, alpha),
        clopper_pearson_lower_complement(votes.k_a, votes.n, alpha),
    )


def _radius(
    p_a: NDArray[np.float64], q_a: NDArray[np.float64], p_b: NDArray[np.float64], sigma: float
) -> NDArray[np.float64]:
    """Return sigma / 2 * (Phi^-1(p_A) - Phi^-1(p_B)), rounded down; 0 unless p_A > 0.5."""
    return np.where(p_a > 0.5, l2_radius_lower(p_a, p_b, sigma, q_a_upper=q_a), 0.0)


def _split_votes(counts: ArrayLike, top: ArrayLike, invalid: ArrayLike) -> _Votes:
    votes = check_whole_array("counts", counts)
    if votes.ndim == 0 or votes.shape[-1] < 2:
        raise ValueError(f"`counts` must have at least 2 classes, got shape {votes.shape}.")
    classes = votes.shape[-1]
    tops = check_whole_array("top", top, maximum=classes - 1)
    if tops.shape != votes.shape[:-1]:
        raise ValueError(f"`top` must have shape {votes.shape[:-1]}, got {tops.shape}.")
    lost = check_whole_array("invalid", invalid)
    if lost.ndim and lost.shape != tops.shape:
        raise ValueError(f"`invalid` must have shape {tops.shape}, got {lost.shape}.")
    n = votes.sum(-1) + lost
    if (n == 0).any():
        raise ValueError("`counts` must hold at least one vote each, got a sum of 0.")
    is_top = np.arange(classes) == tops[..., None]
    others = votes[~is_top].reshape(*tops.shape, classes - 1)
    return _Votes(tops, votes[is_top].reshape(tops.shape), others, n)


def _check_grid(grid: Sequence[float]) -> tuple[float, ...]:
    shares = tuple(check_real("grid", share) for share in grid)
    bad = [share for share in shares if not 0 < share <= 1]
    if bad or not shares:
        raise ValueError(f"`grid` must hold values in (0, 1], got {bad[0] if bad else 'none'}.")
    return shares


_METHODS = {"joint": _joint, "t-certify": _t_certify, "certify": _certify}

#: What `certify_counts` knows, the default first.
METHODS = tuple(_METHODS)
