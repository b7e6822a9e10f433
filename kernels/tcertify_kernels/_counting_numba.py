"""The numba twin of counting.cu: each row's vote, by whole-number comparisons alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def vote(votes: Any, bits: Any, infinity: Any, size: Any, first: int, last: int) -> None:
    """Set votes[b] to the first class with the largest logit, or to C where one is NaN.

    `bits` holds the logits as signed whole numbers of their width, `size` masks off the sign, and
    `infinity` is the pattern above which a size is NaN. Turning the negative patterns round makes
    the order of the whole numbers that of the floats, and both zeros the same.
    """
    classes = bits.shape[1]
    for row in range(first, last):
        best, winner, invalid = np.int64(-(2**40)), 0, False
        for column in range(classes):
            pattern = bits[row, column]
            magnitude = np.int64(pattern & size)
            key = magnitude if pattern >= 0 else -magnitude
            invalid |= magnitude > infinity
            if key > best:
                best, winner = key, column
        votes[row] = classes if invalid else winner


@njit(nogil=True, cache=True)
def tally(counts: Any, votes: Any, slot: Any) -> None:
    for row in range(len(votes)):
        counts[slot[row], votes[row]] += 1
