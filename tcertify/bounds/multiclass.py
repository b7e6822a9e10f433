"""Upper bound of every other class's probability at once, from all their counts."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaincc

from tcertify import _checks
from tcertify.bounds import clopper_pearson
from tcertify.bounds._binomial import (
    Floats,
    Solution,
    bend,
    deviance,
    log_coefficient,
    log_pmf,
    relative_error,
    solve,
)

_NEGLIGIBLE = 1e-17  # a thousand such parts of alpha are far below the error of the tails
_BLOCK = 1 << 15  # counts at a time, whose temporaries stay in the cache


def multiclass_upper(counts: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> NDArray[np.float64]:
    """An upper bound that is at least max_j p_j with probability at least 1 - alpha.

    It is inf{p : sum_j P(Bin(n, p) <= N_j) <= alpha}, for counts N_j ~ Bin(n, p_j) of the classes
    other than the top one. One class gives `clopper_pearson_upper`; more classes give more, and
    so a weaker bound than that of the largest count alone, which is as valid.

    Parameters
    ----------
    counts : array_like of int
        Shape (..., C - 1), 0 <= counts <= n: the counts of the classes other than the top one, in
        any order. They may be dependent, as multinomial counts are.
    n : array_like of int
        Samples, 1 <= n <= 2**53, broadcast against the leading shape of `counts`.
    alpha : array_like of float
        One-sided failure probability in (0, 1), broadcast likewise.

    Returns
    -------
    ndarray of float64
        Shape of `counts` without its last axis, `n` and `alpha` broadcast together. 1 where any
        count is n.

    Raises
    ------
    ValueError
        If an argument is out of its range, is not whole where it must be, or does not broadcast.

    Notes
    -----
    Rounded up: never below the exact real number, and above it by at most 1e-12, relatively, for
    n <= 1e6 and alpha >= 1e-6.

    Source: Feng et al., arXiv:2002.07246, eq. 14.

    Examples
    --------
    >>> float(multiclass_upper([100, 100], 1000, 0.001).round(6))
    0.134775
    """
    return upper(*_checked(counts, n, alpha))[()]


def upper(table: Floats, samples: Floats, levels: Floats) -> Floats:
    """`multiclass_upper` of valid arguments: float64 arrays (..., C - 1), (...) and (...)."""
    rows = np.sort(table.reshape(-1, table.shape[-1]), axis=1)[:, ::-1]
    flat_n, flat_alpha = samples.ravel(), levels.ravel()
    bound = np.ones(samples.size)
    open_rows = np.flatnonzero(rows[:, 0] < flat_n)
    step = max(1, _BLOCK // rows.shape[1])
    for first in range(0, open_rows.size, step):
        at = open_rows[first : first + step]
        bound[at] = _bound(rows[at], flat_n[at], flat_alpha[at])
    return bound.reshape(samples.shape)


def _checked(counts: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> tuple[Floats, Floats, Floats]:
    samples = _checks.check_whole_array("n", n, minimum=1)
    table = _checks.check_whole_array("counts", counts)
    levels = _checks.check_alphas("alpha", alpha)
    if table.ndim == 0 or table.shape[-1] == 0:
        raise ValueError(f"`counts` must have shape (..., C - 1) with C > 1, got {table.shape}.")
    top, samples, levels = _checks.check_broadcast(
        counts=table.max(axis=-1), n=samples, alpha=levels
    )
    bad = top > samples
    if bad.any():
        raise ValueError(
            f"`counts` must be at most `n`, got {top[bad].flat[0]} of {samples[bad].flat[0]}."
        )
    table = np.broadcast_to(table, (*top.shape, table.shape[-1]))
    return table.astype(np.float64), samples.astype(np.float64), levels


def _bound(rows: Floats, n: Floats, alpha: Floats) -> Floats:
    """The bound for rows of counts in falling order, all below n."""
    row, k, weight = _runs(rows)
    first = np.searchsorted(row, np.arange(n.size))
    top, share = k[first], alpha / weight[first]
    # The largest count alone bounds from below, and is the answer where no other one matters.
    bound = clopper_pearson.upper(top, n, share)
    flipped = bound > 0.5  # then the steps go in 1 - p, which keeps its digits
    start = np.where(flipped, clopper_pearson.lower(n - top, n, share), bound)
    terms = _Terms.of(row, np.where(flipped[row], n[row] - k, k), n[row], weight, flipped[row])
    terms = terms.where(terms.log_ceiling(start[row]) > np.log(_NEGLIGIBLE) + np.log(alpha[row]))
    several = np.flatnonzero(np.bincount(terms.row, minlength=n.size) > 1)
    root, error = _root_of_sum(terms, several, n[several], alpha[several], start[several])
    mirrored = np.nextafter(1 - root * (1 - error), 1)
    bound[several] = np.where(flipped[several], mirrored, np.minimum(root * (1 + error), 1))
    return bound


def _root_of_sum(
    terms: _Terms, rows: NDArray[np.intp], n: Floats, alpha: Floats, start: Floats
) -> Solution:
    """Where the sums of these rows are alpha, and the relative errors that this may have."""

    def tail(at: NDArray[np.intp], p: Floats) -> tuple[Floats, Floats, Floats]:
        return terms.of_rows(rows[at]).sums(p)

    with np.errstate(all="ignore"):  # steps that end in NaN or infinity leave the bracket
        smallest = np.full_like(start, np.finfo(np.float64).tiny)
        root, slope = solve(tail, alpha, start, smallest, np.ones_like(start))
    return root, relative_error(n, alpha, slope)


@dataclass(frozen=True)
class _Terms:
    """The summands weight * P(Bin(n, p) <= N) of every row in one list, in the order of rows.

    k is N, and the tail P(Bin(n, p) <= k); in flipped rows it is n - N, and P(Bin(n, q) >= k).
    """

    row: NDArray[np.intp]
    k: Floats
    n: Floats
    weight: Floats
    flipped: NDArray[np.bool_]
    coefficient: Floats

    @classmethod
    def of(
        cls,
        row: NDArray[np.intp],
        k: Floats,
        n: Floats,
        weight: Floats,
        flipped: NDArray[np.bool_],
    ) -> _Terms:
        return cls(row, k, n, weight, flipped, log_coefficient(k, n))

    def where(self, chosen: NDArray[np.bool_]) -> _Terms:
        return _Terms(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def of_rows(self, rows: NDArray[np.intp]) -> _Terms:
        """The terms of these rows, in rising order, numbered from 0."""
        number = np.searchsorted(rows, self.row)
        chosen = self.where(rows[np.minimum(number, rows.size - 1)] == self.row)
        return replace(chosen, row=np.searchsorted(rows, chosen.row))

    def log_ceiling(self, p: Floats) -> Floats:
        """Chernoff's bound of each log summand, where p lies beyond k / n."""
        return np.log(self.weight) - deviance(self.k, self.n, p)

    def sums(self, root: Floats) -> tuple[Floats, Floats, Floats]:
        """Each row's sum, its slope in log root, and the bend of the slope's logarithm."""
        p, k, n, rising = root[self.row], self.k, self.n, self.flipped
        tail = np.empty_like(p)
        tail[rising] = betainc(k[rising], (n - k + 1)[rising], p[rising])
        tail[~rising] = betaincc((k + 1)[~rising], (n - k)[~rising], p[~rising])
        slope = np.where(rising, k, (k - n) * p / (1 - p))
        slope *= np.exp(log_pmf(self.coefficient, k, n, p))
        bends = slope * bend(np.where(rising, k, k + 1), n, p)
        total, slopes, bent = (self._row_sums(x, root.size) for x in (tail, slope, bends))
        return total, slopes, bent / slopes

    def _row_sums(self, values: Floats, rows: int) -> Floats:
        return np.asarray(np.bincount(self.row, self.weight * values, rows), np.float64)


def _runs(rows: Floats) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Row, value and length of each run of equal values."""
    starts = np.ones(rows.shape, dtype=bool)
    starts[:, 1:] = rows[:, 1:] != rows[:, :-1]
    flat = np.flatnonzero(starts)
    lengths = np.diff(flat, append=rows.size)
    return flat // rows.shape[1], rows.ravel()[flat], lengths.astype(np.float64)
