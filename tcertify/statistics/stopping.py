"""Early stopping that keeps the guarantee: looks at growing samples, each at its share of alpha."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtr, ndtri

from tcertify._checks import (
    check_alpha,
    check_positive,
    check_real,
    check_whole,
    check_whole_array,
)
from tcertify.certificates import certify_counts

#: Splits of the normal quantile between p_A and p_B that the approximate bound tries.
_ANGLES = np.linspace(0, np.pi / 2, 4)


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
    def doubling(cls, n: int, alpha: float, *, first: int = 100) -> Schedule:
        """Looks that double up to `n`, with 90 % of `alpha` for the last, the rest split evenly."""
        return _schedule(_looks(n, first, 2.0), alpha, final_share=0.9, growth=0.0)

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
            Above 1. Closer looks overshoot less, and each costs the engine one synchronisation.
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
        return _schedule(_looks(n, first, ratio), alpha, final_share=final_share, growth=1.0)


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
    futility: float = 0.005,
    wanted: ArrayLike = True,
    so_far: Progress | None = None,
) -> Progress:
    """The running best radius after a look, wrong with probability at most ``schedule.alpha``.

    It holds over the whole run of an image, however often and by whatever rule one stops, when
    `top` is independent of the counts. An image is done when the cell of the grid `radii` that its
    radius falls in is decided: the radii below are certified, and the next one above

    - lies beyond the radius of any count, or
    - would not be certified at the last look even if all remaining votes went to `top`, or
    - would be with a predicted probability below `futility`.

    Stopping early can only lose radius, so the last two need no share of alpha.

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
        Noise, positive.
    radii : sequence of float
        Target radii, at least 0; one target is a grid of one. Radius 0 is decided once the image
        is certified at all.
    method : {"joint", "t-certify", "certify"}
        As for `certify_counts`.
    invalid : array of whole numbers, shape (S,)
        Votes that no class received.
    futility : float
        In [0, 0.5). 0 leaves the exact rules alone: samples are then spent until the cell is
        certain.
    wanted : array of bool, shape (S,)
        False for images whose radius counts nowhere, such as those whose `top` is known to be
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
    sigma = check_positive("sigma", sigma)
    targets = _checked_radii(radii)
    if not 0 <= check_real("futility", futility) < 0.5:
        raise ValueError(f"`futility` must be in [0, 0.5), got {futility}.")
    images = _checked_images(counts, top, invalid, look, schedule, method)
    index = images.look
    ends = (index == len(schedule.looks) - 1) | ~np.asarray(wanted, dtype=bool)
    if so_far is None:
        so_far = Progress(np.zeros(len(index)), np.full(len(index), -1), np.zeros(len(index), bool))
    rule = _Rule(schedule, sigma, targets, method, futility)
    guessed = np.maximum(so_far.radius, rule.guessed_radius(images))
    worth = ~so_far.done & (ends | rule.is_decided(images, guessed))
    radius, source = so_far.radius.copy(), so_far.look.copy()
    rows = np.flatnonzero(worth)
    found = rule.certified_radius(images, rows)
    better = rows[found >= radius[rows]]
    radius[better] = found[found >= radius[rows]]
    source[better] = index[better]
    done = so_far.done.copy()
    done[rows] = (ends | rule.is_decided(images, radius))[rows]
    return Progress(radius, source, done)


@dataclass(frozen=True, eq=False)
class _Images:
    """The votes at a look; everything of shape (S,) but the counts (S, C)."""

    counts: NDArray[np.int64]
    top: NDArray[np.int64]
    invalid: NDArray[np.int64]
    k_a: NDArray[np.int64]
    k_b: NDArray[np.int64]
    look: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Rule:
    """What stays the same over the looks."""

    schedule: Schedule
    sigma: float
    targets: NDArray[np.float64]
    method: str
    futility: float

    def certified_radius(self, images: _Images, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """The proved radius of `rows`, each at the level of its look."""
        radius = np.zeros(len(rows))
        for look in np.unique(images.look[rows]):
            here = images.look[rows] == look
            at = rows[here]
            radius[here] = certify_counts(
                images.counts[at],
                images.top[at],
                sigma=self.sigma,
                alpha=self.schedule.levels[look],
                method=self.method,
                invalid=images.invalid[at],
            ).radius
        return radius

    def guessed_radius(self, images: _Images) -> NDArray[np.float64]:
        """About what `certified_radius` gives, for little work."""
        n = np.asarray(self.schedule.looks)[images.look]
        level = np.asarray(self.schedule.levels)[images.look]
        return self.sigma / 2 * approximate_lower(images.k_a, images.k_b, n, level)

    def is_decided(self, images: _Images, radius: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether the first target that `radius` misses is out of reach."""
        reached = np.where(radius > 0, np.searchsorted(self.targets, radius, side="right"), 0)
        beyond = np.append(self.targets, np.inf)[reached]
        decided: NDArray[np.bool_] = np.isinf(beyond)
        rows = np.flatnonzero(~decided & (images.look < len(self.schedule.looks) - 1))
        decided[rows] = self._is_out_of_reach(images, rows, beyond[rows])
        return decided

    def _is_out_of_reach(
        self, images: _Images, rows: NDArray[np.intp], beyond: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        seen = np.asarray(self.schedule.looks)[images.look[rows]]
        k_a, k_b = images.k_a[rows], images.k_b[rows]
        t = 2 * beyond / self.sigma
        out = self._is_unlikely(k_a, k_b, seen, t)
        if self.method == "t-certify":  # which also needs p_A > 1/2
            out |= self._is_unlikely(k_a, seen - k_a, seen, np.zeros_like(t))
        n, level = self.schedule.n, self.schedule.levels[-1]
        doubtful = np.flatnonzero(~out & (approximate_lower(k_a + n - seen, k_b, n, level) < t))
        if len(doubtful):
            best = self._largest_final_radius(images, rows[doubtful])
            out[doubtful] = (best < beyond[doubtful]) | (best == 0)
        return out

    def _is_unlikely(
        self,
        k_a: NDArray[np.int64],
        k_b: NDArray[np.int64],
        seen: NDArray[np.int64],
        t: NDArray[np.float64],
    ) -> NDArray[np.bool_]:
        """Whether the last look would reach t with a probability below `futility`.

        The bound that the votes of the last look would give if they came as so far, and the
        normal spread of what is still to come around it.
        """
        n, level = self.schedule.n, self.schedule.levels[-1]
        expected = approximate_lower(k_a * (n / seen), k_b * (n / seen), n, level)
        to_come = _deviation(k_a, k_b, seen) * np.sqrt(1 / seen - 1 / n)
        likely_best: NDArray[np.float64] = expected + to_come * ndtri(1 - self.futility)
        unlikely: NDArray[np.bool_] = likely_best < t
        return unlikely

    def _largest_final_radius(self, images: _Images, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """The radius at the last look if all votes from here on go to the top class."""
        seen = np.asarray(self.schedule.looks)[images.look[rows]]
        counts = images.counts[rows].copy()
        counts[np.arange(len(rows)), images.top[rows]] += self.schedule.n - seen
        return certify_counts(
            counts,
            images.top[rows],
            sigma=self.sigma,
            alpha=self.schedule.levels[-1],
            method=self.method,
            invalid=images.invalid[rows],
        ).radius


def approximate_lower(
    k_a: NDArray[Any], k_b: NDArray[Any], n: ArrayLike, alpha: ArrayLike
) -> NDArray[np.float64]:
    """About `joint_lower`, for guesses that no guarantee rests on: votes need not be whole.

    The least of a few bounds that split the normal quantile of alpha between p_A and the rival's
    share of the votes that A did not get.
    """
    samples, z = np.asarray(n), -ndtri(np.asarray(alpha))
    least = np.full(np.broadcast_shapes(k_a.shape, samples.shape, z.shape), np.inf)
    for angle in _ANGLES:
        rest = _upper(samples - k_a, samples, ndtr(z * np.cos(angle)))
        rival = rest * _upper(k_b, samples - k_a, ndtr(z * np.sin(angle)))
        least = np.minimum(least, -ndtri(rest) - ndtri(rival))
    return least


def _upper(
    k: NDArray[Any], n: NDArray[Any], confidence: NDArray[np.float64]
) -> NDArray[np.float64]:
    inner = k < n
    return np.where(inner, betaincinv(k + 1, np.where(inner, n - k, 1), confidence), 1.0)


def _deviation(
    k_a: NDArray[np.int64], k_b: NDArray[np.int64], n: NDArray[np.int64]
) -> NDArray[np.float64]:
    """sqrt(n) times the standard deviation of the estimate of Phi^-1(p_A) - Phi^-1(p_B)."""
    p_a, p_b = (k_a + 0.5) / (n + 1), (k_b + 0.5) / (n + 1)
    slope_a, slope_b = (np.sqrt(2 * np.pi) * np.exp(ndtri(p) ** 2 / 2) for p in (p_a, p_b))
    variance = slope_a**2 * p_a * (1 - p_a) + slope_b**2 * p_b * (1 - p_b)
    deviation: NDArray[np.float64] = np.sqrt(variance + 2 * slope_a * slope_b * p_a * p_b)
    return deviation


def _looks(n: int, first: int, ratio: float) -> list[int]:
    n, first = check_whole("n", n), check_whole("first", first)
    if not check_real("ratio", ratio) > 1:
        raise ValueError(f"`ratio` must be above 1, got {ratio}.")
    looks = [n]
    while looks[-1] / ratio >= first:
        looks.append(min(math.ceil(looks[-1] / ratio), looks[-1] - 1))
    return looks[::-1]


def _schedule(looks: list[int], alpha: float, *, final_share: float, growth: float) -> Schedule:
    """Levels in proportion to look ** growth before the last; their sum rounded to <= alpha."""
    alpha = check_alpha("alpha", alpha)
    if not 0 < check_real("final_share", final_share) <= 1:
        raise ValueError(f"`final_share` must be in (0, 1], got {final_share}.")
    if len(looks) == 1 or final_share == 1:
        return Schedule.single(looks[-1], alpha)
    weights = np.asarray(looks[:-1], dtype=np.float64) ** growth
    early = (1 - final_share) * alpha * weights / weights.sum()
    levels = [*early.tolist(), final_share * alpha]
    while math.fsum(levels) > alpha:
        levels[-1] = math.nextafter(levels[-1], 0)
    return Schedule(tuple(looks), tuple(levels))


def _checked_images(
    counts: ArrayLike,
    top: ArrayLike,
    invalid: ArrayLike,
    look: ArrayLike,
    schedule: Schedule,
    method: str,
) -> _Images:
    votes = check_whole_array("counts", counts)
    if votes.ndim != 2 or votes.shape[1] < 2:
        raise ValueError(f"`counts` must have shape (S, C) with C >= 2, got {votes.shape}.")
    size, classes = votes.shape
    per_image = {
        "top": check_whole_array("top", top, maximum=classes - 1),
        "invalid": check_whole_array("invalid", invalid),
        "look": check_whole_array("look", look, maximum=len(schedule.looks) - 1),
    }
    for name, array in per_image.items():
        if array.shape not in ((), (size,)):
            raise ValueError(f"`{name}` must have shape {(size,)}, got {array.shape}.")
        per_image[name] = np.broadcast_to(array, (size,))
    n = votes.sum(1) + per_image["invalid"]
    planned = np.asarray(schedule.looks)[per_image["look"]]
    if (n != planned).any():
        off = int(np.argmax(n != planned))
        raise ValueError(
            f"`counts` must sum to the samples of their look, {planned[off]}, got {n[off]}."
        )
    is_top = np.arange(classes) == per_image["top"][:, None]
    k_a = votes[is_top]
    # CERTIFY takes all votes but A's for one rival's.
    k_b = n - k_a if method == "certify" else np.where(is_top, 0, votes).max(1)
    return _Images(votes, **per_image, k_a=k_a, k_b=k_b)


def _checked_radii(radii: Sequence[float]) -> NDArray[np.float64]:
    targets = np.unique([check_real("radii", radius) for radius in radii])
    bad = ~((targets >= 0) & (targets < np.inf))
    if bad.any() or not len(targets):
        shown = targets[bad][0] if bad.any() else "none"
        raise ValueError(f"`radii` must be non-negative and finite, got {shown}.")
    return targets
