"""From vote counts to certificates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc

from tcertify._checks import (
    check_alpha,
    check_choice,
    check_positive,
    check_real,
)
from tcertify.bounds import clopper_pearson, joint, multiclass
from tcertify.radius import l2_radius_of_bounds, l2_radius_of_gap
from tcertify.votes import Votes, check_counts

#: What is predicted where nothing is certified.
ABSTAIN = -1

#: The published search grid of T-CERTIFY: alpha' as fractions of alpha.
GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True, eq=False)
class Certificates:
    """What the votes of many inputs certify; every array has the shape of the inputs.

    With probability at least ``1 - alpha`` over the noise, per input, no perturbation of l2 norm
    below ``radius`` changes the smoothed classifier's answer ``predicted``. For a single input
    the arrays have shape ``()``; ``float(certificates.radius)`` is then its radius.

    Attributes
    ----------
    predicted : array of int64
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

    predicted: NDArray[np.int64]
    radius: NDArray[np.float64]
    p_a_lower: NDArray[np.float64]
    p_b_upper: NDArray[np.float64]
    n: NDArray[np.int64]
    method: str
    alpha: float
    sigma: float

    def __len__(self) -> int:
        return len(self.predicted)

    def only(self, where: NDArray[np.bool_] | bool) -> Certificates:
        """The certificates of the inputs that `where` holds for; the others abstain."""
        return replace(
            self,
            predicted=np.where(where, self.predicted, ABSTAIN),
            radius=np.where(where, self.radius, 0.0),
            p_a_lower=np.where(where, self.p_a_lower, 0.0),
            p_b_upper=np.where(where, self.p_b_upper, 1.0),
        )

    def __getitem__(self, index: Any) -> Certificates:
        """The certificates of a part of the inputs."""
        arrays = ("predicted", "radius", "p_a_lower", "p_b_upper", "n")
        part: dict[str, Any] = {name: np.asarray(getattr(self, name)[index]) for name in arrays}
        return replace(self, **part)


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
        and certifies below p_A = 0.5 too (docs/joint.md). ``"t-certify"`` splits `alpha`
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
        Counts negative, not whole or summing to 0 (or, for ``"joint"``, to more than 10^12);
        `top` outside [0, C); sigma, alpha or grid out of range; an unknown method.

    Notes
    -----
    Radii are rounded down, so a radius is at most the exact real number.

    Examples
    --------
    >>> result = certify_counts([[5, 985, 10]], [1], sigma=0.5)
    >>> result.predicted, result.radius.round(3)
    (array([1]), array([0.965]))
    """
    sigma = check_positive("sigma", sigma)
    alpha = check_alpha("alpha", alpha)
    grid = _check_grid(grid)
    method = check_choice("method", method, METHODS)
    votes = Votes.of(counts, top, invalid)
    if method == "joint" and (votes.n > joint.MAX_SAMPLES).any():
        raise ValueError(
            f"`counts` must sum to at most {joint.MAX_SAMPLES} for the joint method, "
            f"got {votes.n.max()}."
        )
    return certify_votes(votes, sigma=sigma, alpha=alpha, method=method, grid=grid)


def certify_votes(
    votes: Votes,
    *,
    sigma: float,
    alpha: float,
    method: str,
    grid: Sequence[float] = GRID,
    order: float | None = None,
) -> Certificates:
    """`certify_counts` of votes and arguments that are known to be valid.

    With `order` the joint method ranks outcomes as at that level, as `joint.lower` does.
    """
    found = _METHODS[method](votes, sigma, alpha, grid, order)
    return Certificates(
        predicted=np.where(found.radius > 0, votes.top, ABSTAIN),
        # One input makes some of NumPy's functions return a scalar.
        radius=np.asarray(found.radius),
        p_a_lower=np.asarray(found.p_a),
        p_b_upper=np.asarray(found.p_b),
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
    votes = check_counts(counts)
    alpha = check_alpha("alpha", alpha)
    second, first = np.moveaxis(np.sort(votes, axis=-1)[..., -2:], -1, 0)
    # P(Bin(m, 1/2) >= first), doubled; the factor keeps rounding in betainc on the safe side.
    tail = betainc(np.maximum(first, 1), second + 1, 0.5)
    p_value = np.where(first > second, 2 * tail * (1 + 1e-9), 1.0)
    return np.where(p_value <= alpha, votes.argmax(-1), ABSTAIN)


class _Bounds(NamedTuple):
    p_a: NDArray[np.float64]
    p_b: NDArray[np.float64]
    radius: NDArray[np.float64]


def _joint(
    votes: Votes, sigma: float, alpha: float, _: Sequence[float], order: float | None
) -> _Bounds:
    """The whole of alpha on Phi^-1(p_A) - Phi^-1(p_B): docs/joint.md."""
    level = np.broadcast_to(alpha, votes.n.shape)
    t = joint.lower(votes.k_a, votes.k_b, votes.n, level, order=order)
    k_a, k_b, n, level = _floats(votes.k_a, votes.k_b, votes.n, level)
    p_a = clopper_pearson.lower(k_a, n, level)
    p_b = clopper_pearson.upper(k_b, n, level)
    return _Bounds(p_a, p_b, np.maximum(l2_radius_of_gap(t, sigma), 0.0))


def _certify(
    votes: Votes, sigma: float, alpha: float, _: Sequence[float] = (), order: float | None = None
) -> _Bounds:
    """p_B = 1 - p_A: Cohen et al. 2019."""
    p_a, q_a = _bounds_of_top(votes, alpha)
    return _Bounds(p_a, q_a, _radius(p_a, q_a, q_a, sigma))


def _t_certify(
    votes: Votes, sigma: float, alpha: float, grid: Sequence[float], _: float | None
) -> _Bounds:
    """The best split of alpha between p_A and p_B: Feng et al. 2020, Algorithm 2."""
    splits = [_split(votes, sigma, alpha, share) for share in grid]
    best = np.argmax([split.radius for split in splits], axis=0)[None]
    columns = (np.stack(column) for column in zip(*splits, strict=True))
    return _Bounds(*(np.take_along_axis(column, best, axis=0)[0] for column in columns))


def _split(votes: Votes, sigma: float, alpha: float, share: float) -> _Bounds:
    spent = share * alpha
    if spent == alpha:
        return _certify(votes, sigma, alpha)
    p_a, q_a = _bounds_of_top(votes, spent)
    n, level = _floats(votes.n, alpha - spent)
    p_b = np.minimum(multiclass.upper(votes.others.astype(np.float64), n, level), q_a)
    return _Bounds(p_a, p_b, _radius(p_a, q_a, p_b, sigma))


def _bounds_of_top(votes: Votes, alpha: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lower bound of p_A and, with all its digits, the upper bound of 1 - p_A."""
    k_a, n, level = _floats(votes.k_a, votes.n, alpha)
    return clopper_pearson.lower(k_a, n, level), clopper_pearson.upper(n - k_a, n, level)


def _floats(*arrays: ArrayLike) -> tuple[NDArray[np.float64], ...]:
    return np.broadcast_arrays(*(np.asarray(array, dtype=np.float64) for array in arrays))


def _radius(
    p_a: NDArray[np.float64], q_a: NDArray[np.float64], p_b: NDArray[np.float64], sigma: float
) -> NDArray[np.float64]:
    """Return sigma / 2 * (Phi^-1(p_A) - Phi^-1(p_B)), rounded down; 0 unless p_A > 0.5."""
    return np.where(p_a > 0.5, np.maximum(l2_radius_of_bounds(p_a, q_a, p_b, sigma), 0.0), 0.0)


def _check_grid(grid: Sequence[float]) -> tuple[float, ...]:
    if np.ndim(grid) != 1:
        raise ValueError(f"`grid` must be a sequence of numbers, got {grid!r}.")
    shares = tuple(check_real("grid", share) for share in grid)
    bad = [share for share in shares if not 0 < share <= 1]
    if bad or not shares:
        raise ValueError(f"`grid` must hold values in (0, 1], got {bad[0] if bad else 'none'}.")
    return shares


_METHODS = {"joint": _joint, "t-certify": _t_certify, "certify": _certify}

#: What `certify_counts` knows, the default first.
METHODS = tuple(_METHODS)
