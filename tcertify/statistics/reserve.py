"""Topping up a finished run: looks beyond its last one, paid from alpha that was kept for them."""

from __future__ import annotations

import math

from tcertify._checks import check_alpha, check_real, check_whole
from tcertify.statistics.stopping import Schedule


def reserved(n: int, alpha: float, reserve: float) -> Schedule:
    """The default schedule with a share `reserve` of `alpha` kept for looks beyond `n`.

    Raises
    ------
    ValueError
        `reserve` outside (0, 1), or `n` or `alpha` out of range.

    Examples
    --------
    >>> reserved(100_000, 0.001, 0.5).alpha
    0.0005
    """
    return Schedule.geometric(n, unreserved(alpha, reserve))


def unreserved(alpha: float, reserve: float) -> float:
    """What a run with a reserve may spend of `alpha` before it is topped up."""
    if not 0 < check_real("reserve", reserve) < 1:
        raise ValueError(f"`reserve` must be in (0, 1), got {reserve}.")
    return check_alpha("alpha", alpha) * (1 - reserve)


def topped_up(schedule: Schedule, n: int, *, alpha: float) -> Schedule:
    """The schedule of a finished run with further looks up to `n`, at levels that sum to `alpha`.

    The looks beyond the last are twice, four times, ... its samples, and each takes half of what
    is left of `alpha`. This is fixed by the schedule and `alpha` alone, hence before the first
    sample: so a run may be topped up because of what it found, and the largest radius of all looks
    still fails with probability at most `alpha`. A number of samples chosen after a look at the
    votes would break that.

    Parameters
    ----------
    schedule : Schedule
        What the run was made with, topped up or not.
    n : int
        The last look times a power of two.
    alpha : float
        What the run promised: more than its levels sum to.

    Raises
    ------
    ValueError
        The levels leave nothing of `alpha`, or `n` is no such look.

    Examples
    --------
    >>> first = Schedule((10_000,), (0.0005,))
    >>> topped_up(first, 40_000, alpha=0.001)
    Schedule(looks=(10000, 20000, 40000), levels=(0.0005, 0.00025, 0.000125))
    """
    alpha, n = check_alpha("alpha", alpha), check_whole("n", n)
    looks, levels = [*schedule.looks], [*schedule.levels]
    left = alpha - schedule.alpha
    if left <= alpha * 1e-9:
        raise ValueError(
            f"`alpha` must leave a reserve for further looks, but the levels of the run already"
            f" sum to {schedule.alpha:g} of {alpha:g}."
        )
    while looks[-1] < n:
        left /= 2
        looks.append(2 * looks[-1])
        levels.append(left)
    if n != looks[-1] or n == schedule.n:
        raise ValueError(
            f"`n` must be {schedule.n} times a power of two, the looks fixed beforehand, got {n}."
        )
    while math.fsum(levels) > alpha:
        levels[-1] = math.nextafter(levels[-1], 0)
    return Schedule(tuple(looks), tuple(levels))
