"""From bounds of probabilities to an l2 radius, rounded down."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from tcertify import _checks

_ROUNDING = 8 * np.finfo(np.float64).eps  # of which scipy's ndtri errs by less than 3


def normal_quantile_lower(p: ArrayLike) -> NDArray[np.float64]:
    """A value at most Phi^-1(p), the standard normal quantile.

    Parameters
    ----------
    p : array_like of float
        Probabilities in [0, 1]. For a p near 1 that is known as q = 1 - p, take
        ``-normal_quantile_upper(q)``, which keeps all digits.

    Returns
    -------
    ndarray of float64
        Shape of `p`. -inf at 0, 0 at 1/2, inf at 1.

    Raises
    ------
    ValueError
        If a value is not in [0, 1].

    Notes
    -----
    Rounded down by at most 24 ulp; scipy's own quantile is on either side of the exact one.

    Examples
    --------
    >>> normal_quantile_lower(0.5)
    np.float64(0.0)
    """
    return _quantile(_checks.check_probabilities("p", p), down=True)[()]


def normal_quantile_upper(p: ArrayLike) -> NDArray[np.float64]:
    """A value at least Phi^-1(p), the standard normal quantile.

    As `normal_quantile_lower`, but rounded up.

    Parameters
    ----------
    p : array_like of float
        Probabilities in [0, 1].

    Returns
    -------
    ndarray of float64
        Shape of `p`.
    """
    return _quantile(_checks.check_probabilities("p", p), down=False)[()]


def l2_radius_lower(
    p_a_lower: ArrayLike,
    p_b_upper: ArrayLike,
    sigma: ArrayLike,
    *,
    q_a_upper: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """A radius at most sigma / 2 (Phi^-1(p_A) - Phi^-1(p_B)), within which the top class stays.

    It holds wherever `p_a_lower` and `p_b_upper` hold, and is rounded down.

    Parameters
    ----------
    p_a_lower : array_like of float
        Lower bound of the top class's probability, in [0, 1).
    p_b_upper : array_like of float
        Upper bound of every other class's probability, in (0, 1].
    sigma : array_like of float
        Standard deviation of the noise, positive and finite.
    q_a_upper : array_like of float, optional
        Upper bound of 1 - p_A in (0, 1], such as `clopper_pearson_lower_complement` gives; used
        where it supports more than `p_a_lower`, which near 1 has no digits left.

    Returns
    -------
    ndarray of float64
        Shapes broadcast together. 0 or less certifies nothing.

    Raises
    ------
    ValueError
        If an argument is out of its range or does not broadcast.

    Notes
    -----
    Source: Cohen et al., arXiv:1902.02918, Theorem 1.

    Examples
    --------
    >>> float(l2_radius_lower(0.9, 0.05, sigma=0.5).round(6))
    0.731601
    """
    p_a = _checks.check_probabilities("p_a_lower", p_a_lower)
    if (p_a == 1).any():
        raise ValueError("`p_a_lower` must be below 1, got 1.0.")
    p_b = _checks.check_probabilities("p_b_upper", p_b_upper)
    if (p_b == 0).any():
        raise ValueError("`p_b_upper` must be above 0, got 0.0.")
    scale = _checks.check_positives("sigma", sigma)
    arrays = {"p_a_lower": p_a, "p_b_upper": p_b, "sigma": scale}
    if q_a_upper is not None:
        q_a = _checks.check_probabilities("q_a_upper", q_a_upper)
        if (q_a == 0).any():
            raise ValueError("`q_a_upper` must be above 0, got 0.0.")
        arrays["q_a_upper"] = q_a
    p_a, p_b, scale, *rest = _checks.check_broadcast(**arrays)
    return l2_radius_of_bounds(p_a, rest[0] if rest else None, p_b, scale)[()]


def l2_radius_of_bounds(
    p_a: NDArray[np.float64],
    q_a: NDArray[np.float64] | None,
    p_b: NDArray[np.float64],
    sigma: NDArray[np.float64] | float,
) -> NDArray[np.float64]:
    """`l2_radius_lower` of valid arguments."""
    z_a = _quantile(p_a, down=True)
    if q_a is not None:
        z_a = np.maximum(z_a, -_quantile(q_a, down=False))
    return l2_radius_of_gap(np.nextafter(z_a - _quantile(p_b, down=False), -np.inf), sigma)


def l2_radius_of_gap(
    gap: NDArray[np.float64], sigma: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """A radius at most sigma / 2 times a gap Phi^-1(p_A) - Phi^-1(p_B); input is valid here."""
    # Half a gap is exact; half a sigma is not, where sigma is as small as floats get.
    radius: NDArray[np.float64] = np.nextafter(gap / 2 * sigma, -np.inf)
    return radius


def _quantile(p: NDArray[np.float64], *, down: bool) -> NDArray[np.float64]:
    """Phi^-1(p), moved by more than the error of scipy's own to the side named."""
    z = np.asarray(ndtri(p))
    moved: NDArray[np.float64] = z * (1 - np.sign(z) * (_ROUNDING if down else -_ROUNDING))
    return moved


def radius_in_norm(radius: ArrayLike, norm: float, size: int) -> NDArray[np.float64]:
    """A radius in another norm: its ball lies inside the l2 ball of `radius`, and no larger does.

    Up to l2 it is the same number; beyond, ``radius / size ** (1 / 2 - 1 / norm)``, which for
    linf is ``radius / sqrt(size)``.

    Parameters
    ----------
    radius : array_like of float
        l2 radii, at least 0.
    norm : float
        The p of lp: 1 to ``math.inf``.
    size : int
        Numbers in an input: 3,072 for CIFAR-10.

    Returns
    -------
    ndarray of float64
        Shape of `radius`, rounded down.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Notes
    -----
    What an l2 certificate implies, not the best that the votes could say in that norm.

    Examples
    --------
    >>> radius_in_norm(0.5, 1, 3072), radius_in_norm(0.5, np.inf, 3072).round(5)
    (np.float64(0.5), np.float64(0.00902))
    """
    r = _checks.check_non_negatives("radius", radius)
    size = _checks.check_whole("size", size)
    p = _checks.check_real("norm", norm)
    if not p >= 1:
        raise ValueError(f"`norm` must be at least 1, got {p}.")
    if p <= 2 or size == 1:
        return r[()]
    shrunk: NDArray[np.float64] = r * (size ** (1 / p - 1 / 2) * (1 - 2 * _ROUNDING))
    return shrunk[()]


def vote_share_lower(
    p_a_lower: ArrayLike, distance: ArrayLike, sigma: ArrayLike
) -> NDArray[np.float64]:
    """At most the top class's probability at any point within `distance`.

    It holds wherever `p_a_lower` holds: what the certified class's share of the noisy votes cannot
    fall below, though the radius be larger or smaller.

    Parameters
    ----------
    p_a_lower : array_like of float
        Lower bound of the top class's probability, in [0, 1].
    distance : array_like of float
        l2 distances, at least 0.
    sigma : array_like of float
        Standard deviation of the noise, positive and finite.

    Returns
    -------
    ndarray of float64
        Shapes broadcast together, rounded down.

    Raises
    ------
    ValueError
        If an argument is out of its range or does not broadcast.

    Notes
    -----
    Phi(Phi^-1(p_A) - distance / sigma): Neyman and Pearson's lemma, as in Cohen et al.,
    arXiv:1902.02918. `p_a_lower` of a joint certificate is proved at alpha by itself; with the
    radius beside it, both hold at 2 alpha.

    Examples
    --------
    >>> vote_share_lower(0.99, [0.0, 0.5, 1.0], 0.5).round(3)
    array([0.99 , 0.908, 0.628])
    """
    p_a = _checks.check_probabilities("p_a_lower", p_a_lower)
    away = _checks.check_non_negatives("distance", distance)
    scale = _checks.check_positives("sigma", sigma)
    p_a, away, scale = _checks.check_broadcast(p_a_lower=p_a, distance=away, sigma=scale)
    steps = np.where(away > 0, np.nextafter(away / scale, np.inf), 0.0)
    z = np.nextafter(_quantile(p_a, down=True) - steps, -np.inf)
    square = np.clip(z, -40.0, 40.0) ** 2
    # erfc errs by a few ulp of its value, and by the rounding of its argument: z^2 ulp.
    floor: NDArray[np.float64] = ndtr(z) * np.maximum(1 - _ROUNDING * (2 + square), 0.0)
    return floor[()]


def largest_integer_change(radius: ArrayLike, levels: int) -> NDArray[np.int64]:
    """The largest sum of squared changes of an integer image that a certificate covers.

    An image of whole numbers 0 to `levels` is certified at ``image / levels``. Another such image
    is closer than `radius` exactly if the squares of the differences of all whole numbers sum to
    this or less: ``ceil((levels * radius) ** 2) - 1``, in exact arithmetic.

    Parameters
    ----------
    radius : array_like of float
        l2 radii in units of the image divided by `levels`, at least 0.
    levels : int
        255 for 8 bits.

    Returns
    -------
    ndarray of int64
        Shape of `radius`; -1 for radius 0, which does not cover the image itself.

    Raises
    ------
    ValueError
        If an argument is out of its range, or their product above 2^31.

    Notes
    -----
    As many numbers as the result may change by one level each. Pixels kept as floats are not
    exact multiples of ``1 / levels``: where the noise was added to those, take
    ``sqrt(size) * 2 ** -24`` off the radius first.

    Examples
    --------
    >>> largest_integer_change([0.0, 1 / 255, 0.5], 255)
    array([   -1,     0, 16256])
    """
    r = _checks.check_non_negatives("radius", radius)
    levels = _checks.check_whole("levels", levels)
    if (r * levels > 2**31).any():
        raise ValueError(f"`radius` times `levels` must be at most 2^31, got {r.max() * levels}.")
    squares = [math.ceil((levels * Fraction(one)) ** 2) - 1 for one in r.ravel().tolist()]
    return np.array(squares, dtype=np.int64).reshape(r.shape)[()]
