"""Votes: what the noisy copies of some inputs were classified as."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tcertify._checks import MAX_SAMPLES, check_whole_array


@dataclass(frozen=True, eq=False)
class Votes:
    """The votes of one input, or of an array of inputs, with the class to certify for each.

    `Votes.of` checks what it gets; the constructor and `from_columns` do not.

    Attributes
    ----------
    counts : int64 array, shape (..., C)
        Votes for each of C >= 2 classes.
    top : int64 array, shape (...)
        The class to certify, in [0, C), chosen without a look at `counts`.
    invalid : int64 array, shape (...)
        Votes that no class received. They count among `n`, against every class.
    """

    counts: NDArray[np.int64]
    top: NDArray[np.int64]
    invalid: NDArray[np.int64]

    @classmethod
    def of(cls, counts: ArrayLike, top: ArrayLike, invalid: ArrayLike = 0) -> Votes:
        """Return the votes after a check: whole numbers, shapes that fit, at least one vote each.

        Raises
        ------
        ValueError
            `counts` negative, not whole, without a second class, or of a sum that is 0 or above
            2^53; `top` outside [0, C); shapes that do not fit.
        """
        votes = check_counts(counts)
        inputs = votes.shape[:-1]
        tops = check_whole_array("top", top, maximum=votes.shape[-1] - 1)
        if tops.shape != inputs:
            raise ValueError(f"`top` must have shape {inputs}, got {tops.shape}.")
        lost = check_whole_array("invalid", invalid)
        if lost.ndim and lost.shape != inputs:
            raise ValueError(f"`invalid` must have shape {inputs}, got {lost.shape}.")
        # In floats, which do not overflow where many large counts are added.
        total = votes.sum(-1, dtype=np.float64) + lost
        if (total == 0).any():
            raise ValueError("`counts` must hold at least one vote each, got a sum of 0.")
        if (total > MAX_SAMPLES).any():
            raise ValueError(
                f"`counts` must sum to at most {MAX_SAMPLES}, got {total.max():.0f} or so."
            )
        return cls(votes, tops, np.broadcast_to(lost, inputs))

    @classmethod
    def from_columns(cls, columns: NDArray[np.int64], top: NDArray[np.int64]) -> Votes:
        """Return the votes whose last axis holds C classes and then the invalid votes.

        Raises
        ------
        ValueError
            The shapes are not (..., C + 1) with C >= 2, and (...).
        """
        if columns.ndim == 0 or columns.shape[-1] < 3 or columns.shape[:-1] != top.shape:
            raise ValueError(
                f"Votes of shape {columns.shape} are not (..., C + 1) with C >= 2"
                f" beside classes of shape {top.shape}."
            )
        return cls(columns[..., :-1], top, columns[..., -1])

    @cached_property
    def n(self) -> NDArray[np.int64]:
        """Votes in all, invalid ones included; shape (...)."""
        return np.asarray(self.counts.sum(-1) + self.invalid)

    @cached_property
    def k_a(self) -> NDArray[np.int64]:
        """Votes for `top`; shape (...)."""
        chosen = np.take_along_axis(self.counts, self.top[..., None], axis=-1)
        return np.asarray(chosen[..., 0])

    @cached_property
    def others(self) -> NDArray[np.int64]:
        """Votes for the classes other than `top`, in their order; shape (..., C - 1)."""
        is_other = np.arange(self.counts.shape[-1]) != self.top[..., None]
        shape = (*self.top.shape, self.counts.shape[-1] - 1)
        return np.asarray(self.counts[is_other].reshape(shape))

    @cached_property
    def k_b(self) -> NDArray[np.int64]:
        """The largest number of votes that one class other than `top` got; shape (...)."""
        return np.asarray(self.others.max(-1))

    @property
    def columns(self) -> NDArray[np.int64]:
        """Votes for each class and then the invalid ones; shape (..., C + 1)."""
        return np.concatenate([self.counts, self.invalid[..., None]], axis=-1)

    def __len__(self) -> int:
        return len(self.top)

    def __getitem__(self, index: Any) -> Votes:
        """The votes of a part of the inputs."""
        return Votes(self.counts[index], *map(np.asarray, (self.top[index], self.invalid[index])))


def check_counts(counts: ArrayLike) -> NDArray[np.int64]:
    """Return votes as an int64 array (..., C), of at least 2 classes."""
    votes = check_whole_array("counts", counts)
    if votes.ndim == 0 or votes.shape[-1] < 2:
        raise ValueError(f"`counts` must have at least 2 classes, got shape {votes.shape}.")
    return votes
