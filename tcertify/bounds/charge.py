"""What Gaussian noise, which is not drawn exactly, may do to a failure probability."""

from __future__ import annotations

import math

from tcertify._checks import LEAST_ALPHA, check_alpha, check_whole

#: What the largest normal that is drawn leaves out: the probability of a longer pair.
LOST_TAIL = 2.0**-65
#: How far the fitted polynomials bend the density of a pair of normals: the root mean square of
#: the log of the ratio to the Gaussian density is at most this, as `kernels/fit_normal.py` proves,
BEND = 6.1e-8
#: and nowhere is its size above this.
LARGEST_BEND = 1.3e-6


def charged_alpha(alpha: float, n: int, size: int) -> float:
    """The level at which votes under Gaussian noise, as the kernels draw it, support `alpha`.

    Whatever happens with probability at most this level under exact Gaussian noise happens with
    probability at most `alpha` under the noise as it is drawn: a certificate of any method that is
    wrong, at any look, or a wrong prediction.

    Parameters
    ----------
    alpha : float
        Failure probability, in (0, 1).
    n : int
        Samples, of all looks together.
    size : int
        Numbers in an input.

    Returns
    -------
    float
        Below `alpha` by a factor of ``exp(n_tau)``.

    Raises
    ------
    ValueError
        If an argument is out of its range, or what the noise may err by exceeds `alpha`.

    Notes
    -----
    The tail that is never drawn is charged by its total variation, the bend of the density by its
    Renyi divergence over all samples. docs/guarantees.md has the proof, and says what it assumes.

    Examples
    --------
    >>> level = charged_alpha(0.001, 100_000, 3 * 224 * 224)
    >>> round(0.001 / level, 4)
    1.0199
    """
    alpha, pairs = check_alpha("alpha", alpha), _pairs(n, size)
    low, high = math.log(LEAST_ALPHA), math.log(alpha)
    for _ in range(64):
        middle = (low + high) / 2
        if grown(math.exp(middle), pairs) <= alpha:
            low = middle
        else:
            high = middle
    level = math.exp(low)
    if not grown(level, pairs) <= alpha:
        raise ValueError(
            f"`alpha` = {alpha:g} cannot pay for Gaussian noise of {n} samples of {size} numbers,"
            " which is not drawn exactly: take integer noise, or fewer samples."
        )
    return level


def n_tau(alpha: float, n: int, size: int) -> float:
    """The exponent by which Gaussian noise as drawn may raise a failure probability of `alpha`.

    Arguments are those of `charged_alpha`.
    """
    level = check_alpha("alpha", alpha)
    return math.log(grown(level, _pairs(n, size)) / level)


def grown(
    level: float,
    pairs: int,
    *,
    bend: float = BEND,
    largest: float = LARGEST_BEND,
    lost: float = LOST_TAIL,
) -> float:
    """At most the probability, as drawn, of what has probability `level` under exact noise."""
    information, variance = -math.log(level), pairs * bend**2
    order = min(math.sqrt(2 * information / variance), 1 / largest)  # of Renyi's divergence
    if order <= 1:
        return 1.0
    excess = math.exp(max(order - 1, 1.0) * largest)
    exponent = information / order + (order - 1) / 2 * variance * excess
    return min(math.exp(exponent - information) + pairs * lost, 1.0)


def _pairs(n: int, size: int) -> int:
    return check_whole("n", n) * math.ceil(check_whole("size", size) / 2)
