"""From bounds of probabilities to an l2 radius, rounded down."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

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
