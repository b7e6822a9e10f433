"""How many rows a forward pass should have: measured, not guessed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tcertify.sampling.memory import is_out_of_memory

#: Calls at one size: one that settles memory and kernels, then those of which the shortest counts.
_SETTLING, _TIMED = 1, 3
#: More rows must be this much faster: they take more memory, and a clock is not exact.
_GAIN = 1.02
#: A rate below this share of the best says that larger sizes will not come back.
_LOST = 0.8


@dataclass(frozen=True)
class Tuning:
    """The number of rows that was fastest, and the samples per second at each that was timed."""

    rows: int
    rates: dict[int, float]


def tune(
    work: Callable[[int], object],
    *,
    fewest: int = 1,
    most: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Tuning:
    """Time powers of two from `fewest` to `most` rows, and return the fastest per row.

    It ends at the first size that does not fit in memory, after two sizes in a row that are much
    slower than the best, and where the next would outlast the time that is left; the first size is
    timed always. Where two are as fast as the clock can tell, the smaller is kept.

    Parameters
    ----------
    work : callable
        ``work(rows)`` runs one forward pass of that many rows to its end: on a GPU it waits.
    fewest, most : int
        The first size, and what none may exceed.
    seconds : float
        By `clock`, for all of it.
    clock : callable
        Returns seconds.

    Raises
    ------
    MemoryError, torch.OutOfMemoryError, RuntimeError
        What `work` raises at the first size, or at any size if it is not about memory.
    """
    end = clock() + seconds
    best, rates, lost = fewest, dict[int, float](), 0
    rows, expected = fewest, 0.0
    while rows <= most and lost < 2 and clock() + expected <= end:
        try:
            shortest = _shortest(work, rows, clock)
        except Exception as error:
            if not rates or not is_out_of_memory(error):
                raise
            break
        rates[rows] = rows / shortest
        if rates[rows] > _GAIN * rates[best] or rows == fewest:
            best = rows
        lost = lost + 1 if rates[rows] < _LOST * rates[best] else 0
        rows, expected = 2 * rows, 2 * (_SETTLING + _TIMED) * shortest
    return Tuning(best, rates)


def _shortest(work: Callable[[int], object], rows: int, clock: Callable[[], float]) -> float:
    """Return the seconds of the shortest of a few calls, as a clock that may stand still has it."""
    found = []
    for _ in range(_SETTLING + _TIMED):
        start = clock()
        work(rows)
        found.append(clock() - start)
    return max(min(found[_SETTLING:]), 1e-9)
