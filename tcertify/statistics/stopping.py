"""Early stopping that keeps the guarantee: looks at growing samples, each at its share of alpha."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from tcertify._checks import (
    check_alpha,
    check_choice,
    check_non_negatives,
    check_positive,
    check_real,
    check_whole,
    check_whole_array,
)
from tcertify.bounds._approximate import approximate_lower, deviation
from tcertify.certificates import METHODS, certify_votes
from tcertify.votes import Votes

#: A target that is reached with a smaller probability than this is given up.
FUTILITY = 0.005


@dataclass(frozen=True)
class Schedule:
    """When to look at the counts, and the failure probability that each look may spend.

    If the certificate of look j fails with probability at most ``levels[j]``, then the largest of
    them all fails with probability at most ``sum(levels)``, whatever decides when to stop: for the
    largest radius to be too large, one of them must be (union bound).

    Attributes
    ----------
    looks : tuple of int
        Sample sizes, increasing; the last is the size of the full run.
    levels : tuple of float
        One failure probability per look; their sum is below 1.
    """

    looks: tuple[int, ...]
    levels: tuple[float, ...]

    def __post_init__(self) -> None:
        looks = tuple(check_whole("looks", look) for look in self.looks)
        levels = tuple(check_alpha("levels", level) for level in self.levels)
        if not looks or any(b <= a for a, b in pairwise(looks)):
            raise ValueError(f"`looks` must be increasing, got {self.looks}.")
        if len(levels) != len(looks):
            raise ValueError(f"`levels` must be one per look, got {len(levels)} for {len(looks)}.")
        check_alpha("sum of levels", math.fsum(levels))
        object.__setattr__(self, "looks", looks)
        object.__setattr__(self, "levels", levels)

    @property
    def n(self) -> int:
        """Samples of the full run."""
        return self.looks[-1]

    @property
    def alpha(self) -> float:
        """Failure probability of the whole: the sum of the levels."""
        return math.fsum(self.levels)

    @classmethod
    def single(cls, n: int, alpha: float) -> Schedule:
        """One look, after all `n` samples: no early stopping."""
        return cls((n,), (alpha,))

    @classmethod
    def geometric(
        cls,
        n: int,
        alpha: float,
        *,
        first: int = 100,
        ratio: float = 1.1,
        final_share: float = 0.8,
    ) -> Schedule:
        """Looks that grow by `ratio` from about `first` up to `n`, at levels that sum to `alpha`.

        Parameters
        ----------
        n : int
            Samples of the full run.
        alpha : float
            Failure probability of the whole, in (0, 1).
        first : int
            No look comes before this many samples.
        ratio : float
            Above 1. Closer looks overshoot less, and each costs a run one synchronisation.
        final_share : float
            Share of `alpha` for the last look, in (0, 1]. The rest goes to the earlier looks in
            proportion to their sample size: early looks decide images that are far from any
            target, which costs few samples at any level.

        Examples
        --------
        >>> schedule = Schedule.geometric(1000, 0.001, first=100, ratio=2)
        >>> schedule.looks, schedule.alpha
        ((125, 250, 500, 1000), 0.001)
        """
        looks, alpha = _looks(n, first, ratio), check_alpha("alpha", alpha)
        if not 0 < check_real("final_share", final_share) <= 1:
            raise ValueError(f"`final_share` must be in (0, 1], got {final_share}.")
        if len(looks) == 1 or final_share == 1:
            return cls.single(n, alpha)
        early = np.asarray(looks[:-1], dtype=np.float64)
        early *= (1 - final_share) * alpha / early.sum()
        return cls(tuple(looks), _at_most(alpha, [*early.tolist(), final_share * alpha]))

    def scaled(self, alpha: float) -> Schedule:
        """The same looks at levels in the same proportion that sum to `alpha` at most."""
        factor = check_alpha("alpha", alpha) / self.alpha
        return Schedule(self.looks, _at_most(alpha, [factor * level for level in self.levels]))


@dataclass(frozen=True, eq=False)
class Progress:
    """What is known of each image after a look; arrays of shape ``(S,)``.

    Attributes
    ----------
    radius : array of float64
        Running best radius, rounded down, 0 while none is certified. It fails with probability at
        most the schedule's alpha, whenever one stops.
    look : array of int64
        The look that gave it: its counts, with ``schedule.levels[look]`` as alpha, reproduce the
        certificate. -1 before the first look that was evaluated.
    done : array of bool
        Further samples would not be worth their cost: every target is certified or out of reach.
    """

    radius: NDArray[np.float64]
    look: NDArray[np.int64]
    done: NDArray[np.bool_]


def decide(
    counts: ArrayLike,
    top: ArrayLike,
    look: ArrayLike,
    *,
    schedule: Schedule,
    sigma: float,
    radii: Sequence[float],
    method: str = "joint",
    invalid: ArrayLike = 0,
    wanted: ArrayLike = True,
    so_far: Progress | None = None,
) -> Progress:
    """The running best radius after a look, wrong with probability at most ``schedule.alpha``.

    It holds over the whole run of an image, however often and by whatever rule one stops, when
    `top` is independent of the counts. An image is done when the cell of the grid `radii` that its
    radius falls in is decided: the radii below are certified, and the next one above

    - lies beyond the radius of any count, or
    - would not be certified at the last look if all remaining votes went to `top`, or
    - would be with a predicted probability below 0.5 %.

    Stopping early can only lose radius, so none of this needs a share of alpha.

    Parameters
    ----------
    counts : array of whole numbers, shape (S, C)
        Votes of each image, all that were cast up to its look.
    top : array of whole numbers, shape (S,)
        The class of each image, from its selection sample.
    look : whole number or array of them, shape (S,)
        Index into ``schedule.looks``: which look this is for each image. The votes of an image,
        invalid ones included, must be as many as its look says.
    schedule : Schedule
        Fixed before the first sample.
    sigma : float
        Standard deviation of the noise, positive.
    radii : sequence of float
        Target radii, at least 0; one target is a grid of one. Radius 0 is decided once the image
        is certified at all.
    method : {"joint", "t-certify", "certify"}
        As for `certify_counts`.
    invalid : array of whole numbers, shape (S,)
        Votes that no class received.
    wanted : array of bool, shape (S,)
        False for images whose radius is not needed, such as those whose `top` is known to be
        wrong when certified accuracy is all that is asked for: they are done at their first look.
    so_far : Progress, optional
        The answer to the look before, of the same images in the same order.

    Returns
    -------
    Progress

    Raises
    ------
    ValueError
        An argument out of range, or votes that do not match the look.

    Notes
    -----
    A bound is computed only where an approximation says that the image can stop, and at the last
    look; skipping one can only lose. Source: the union bound over a spending schedule, as in group
    sequential trials (Lan and DeMets, Biometrika 70 (1983) 659-663).

    Examples
    --------
    >>> schedule = Schedule.geometric(100_000, 0.001, first=1000)
    >>> n = schedule.looks[0]
    >>> progress = decide([[n - 20, 20]], [0], 0, schedule=schedule, sigma=0.5, radii=[0.5])
    >>> progress.done, progress.radius > 0.5
    (array([ True]), array([ True]))
    """
    tops = np.full(np.shape(counts)[:1], top) if np.ndim(top) == 0 else top
    votes = Votes.of(counts, tops, invalid)
    if votes.top.ndim != 1:
        raise ValueError(f"`counts` must have shape (S, C), got {votes.counts.shape}.")
    rule = Rule(
        schedule,
        check_positive("sigma", sigma),
        _checked_radii(radii),
        check_choice("method", method, METHODS),
    )
    index = _checked_look(votes, look, schedule)
    return rule.decide(votes, index, np.asarray(wanted, dtype=bool), so_far)


@dataclass(frozen=True, eq=False)
class Rule:
    """What stays the same over the looks of `decide`; its input is valid."""

    schedule: Schedule
    sigma: float
    targets: NDArray[np.float64]
    method: str

    def decide(
        self,
        votes: Votes,
        look: NDArray[np.int64],
        wanted: NDArray[np.bool_],
        so_far: Progress | None = None,
    ) -> Progress:
        """`decide` of votes (S,) at these looks."""
        ends = (look == len(self.schedule.looks) - 1) | ~wanted
        if so_far is None:
            so_far = Progress(
                np.zeros(len(look)), np.full(len(look), -1), np.zeros(len(look), bool)
            )
        guessed = np.maximum(so_far.radius, self.guessed_radius(votes, look))
        worth = ~so_far.done & (ends | self.is_decided(votes, look, guessed))
        radius, source, done = so_far.radius.copy(), so_far.look.copy(), so_far.done.copy()
        rows = np.flatnonzero(worth)
        found = self.certified_radius(votes[rows], look[rows])
        better = rows[found >= radius[rows]]
        radius[better], source[better] = found[found >= radius[rows]], look[better]
        done[rows] = (ends | self.is_decided(votes, look, radius))[rows]
        return Progress(radius, source, done)

    def certified_radius(self, votes: Votes, look: NDArray[np.int64]) -> NDArray[np.float64]:
        """The proved radius, each at the level of its look."""
        radius = np.zeros(len(votes))
        for index in np.unique(look):
            here = look == index
            level = self.schedule.levels[index]
            radius[here] = self._radius(votes[here], level)
        return radius

    def _radius(self, votes: Votes, level: float) -> NDArray[np.float64]:
        return certify_votes(votes, sigma=self.sigma, alpha=level, method=self.method).radius

    def guessed_radius(self, votes: Votes, look: NDArray[np.int64]) -> NDArray[np.float64]:
        """About what `certified_radius` gives, for little work."""
        level = np.asarray(self.schedule.levels)[look]
        rival = self._rival(votes)
        return self.sigma / 2 * approximate_lower(votes.k_a, rival, votes.n, level)

    def is_decided(
        self, votes: Votes, look: NDArray[np.int64], radius: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Whether the first target that `radius` misses is out of reach."""
        reached = np.where(radius > 0, np.searchsorted(self.targets, radius, side="right"), 0)
        beyond = np.append(self.targets, np.inf)[reached]
        decided: NDArray[np.bool_] = np.isinf(beyond)
        rows = np.flatnonzero(~decided & (look < len(self.schedule.looks) - 1))
        decided[rows] = self._is_out_of_reach(votes[rows], beyond[rows])
        return decided

    def _rival(self, votes: Votes) -> NDArray[np.int64]:
        """The votes that speak for one rival: to CERTIFY, all but those of A."""
        return votes.n - votes.k_a if self.method == "certify" else votes.k_b

    def _is_out_of_reach(self, votes: Votes, beyond: NDArray[np.float64]) -> NDArray[np.bool_]:
        t, rival = 2 * beyond / self.sigma, self._rival(votes)
        out = self._is_unlikely(votes.k_a, rival, votes.n, t)
        if self.method == "t-certify":  # which also needs p_A > 1/2
            out |= self._is_unlikely(votes.k_a, votes.n - votes.k_a, votes.n, np.zeros_like(t))
        n, level = self.schedule.n, self.schedule.levels[-1]
        guessed = approximate_lower(votes.k_a + n - votes.n, rival, n, level)
        doubtful = np.flatnonzero(~out & (guessed < t))
        if len(doubtful):
            best = self._radius(self._all_to_top(votes[doubtful]), level)
            out[doubtful] = (best < beyond[doubtful]) | (best == 0)
        return out

    def _all_to_top(self, votes: Votes) -> Votes:
        """The votes at the last look if all from here on go to the top class."""
        counts = votes.counts.copy()
        counts[np.arange(len(votes)), votes.top] += self.schedule.n - votes.n
        return Votes(counts, votes.top, votes.invalid)

    def _is_unlikely(
        self,
        k_a: NDArray[np.int64],
        k_b: NDArray[np.int64],
        seen: NDArray[np.int64],
        t: NDArray[np.float64],
    ) -> NDArray[np.bool_]:
        """Whether the last look would reach t with a probability below `FUTILITY`.

        The bound that the votes of the last look would give if they came as so far, and the
        normal spread of what is still to come around it.
        """
        n, level = self.schedule.n, self.schedule.levels[-1]
        expected = approximate_lower(k_a * (n / seen), k_b * (n / seen), n, level)
        to_come = deviation(k_a, k_b, seen) * np.sqrt(1 / seen - 1 / n)
        likely_best: NDArray[np.float64] = expected + to_come * ndtri(1 - FUTILITY)
        unlikely: NDArray[np.bool_] = likely_best < t
        return unlikely


def _looks(n: int, first: int, ratio: float) -> list[int]:
    n, first = check_whole("n", n), check_whole("first", first)
    if not check_real("ratio", ratio) > 1:
        raise ValueError(f"`ratio` must be above 1, got {ratio}.")
    looks = [n]
    while looks[-1] / ratio >= first:
        looks.append(min(math.ceil(looks[-1] / ratio), looks[-1] - 1))
    return looks[::-1]


def _at_most(alpha: float, levels: list[float]) -> tuple[float, ...]:
    """The levels with the last one lowered until their exact sum is at most alpha."""
    while sum(map(Fraction, levels)) > alpha:
        levels[-1] = math.nextafter(levels[-1], 0)
    return tuple(levels)


def _checked_look(votes: Votes, look: ArrayLike, schedule: Schedule) -> NDArray[np.int64]:
    index = check_whole_array("look", look, maximum=len(schedule.looks) - 1)
    if index.shape not in ((), votes.top.shape):
        raise ValueError(f"`look` must have shape {votes.top.shape}, got {index.shape}.")
    index = np.broadcast_to(index, votes.top.shape)
    planned = np.asarray(schedule.looks)[index]
    if (votes.n != planned).any():
        off = int(np.argmax(votes.n != planned))
        raise ValueError(
            f"`counts` must sum to the samples of their look, {planned[off]}, got {votes.n[off]}."
        )
    return index


def _checked_radii(radii: Sequence[float]) -> NDArray[np.float64]:
    targets: NDArray[np.float64] = np.unique(check_non_negatives("radii", list(radii)))
    if not len(targets):
        raise ValueError("`radii` must hold at least one radius, got none.")
    return targets
