"""Upper bound of every other class's probability at once, from all their counts."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaincc

from tcertify import _checks
from tcertify.bounds._binomial import Floats, deviance, log_coefficient, log_pmf, relative_error
from tcertify.bounds.clopper_pearson import clopper_pearson_lower, clopper_pearson_upper

_NEGLIGIBLE = 1e-17
_STEP_IS_LAST = 1e-7  # a step from this distance ends at its square
_MAX_STEPS = 100


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

    Source: Feng et al., arXiv:2009.09318, eq. 14.

    Examples
    --------
    >>> float(multiclass_upper([100, 100], 1000, 0.001).round(6))
    0.134775
    """
    table, samples, levels = _checked(counts, n, alpha)
    shape = samples.shape
    rows = np.sort(table.reshape(-1, table.shape[-1]), axis=1)[:, ::-1]
    bound = np.ones(samples.size)
    open_rows = rows[:, 0] < samples.ravel()
    bound[open_rows] = _bound(
        rows[open_rows], samples.ravel()[open_rows], levels.ravel()[open_rows]
    )
    return bound.reshape(shape)[()]


def _checked(counts: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> tuple[Floats, Floats, Floats]:
    samples = _checks.check_whole_array("n", n, minimum=1)
    table = _checks.check_whole_array("counts", counts)
    levels = _checks.check_alphas(alpha)
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
    top, alone = k[first], alpha / weight[first]
    # The largest count alone bounds from below, and is the answer where no other one matters.
    bound = clopper_pearson_upper(top, n, alone)
    flipped = bound > 0.5
    start = np.where(flipped, clopper_pearson_lower(n - top, n, alone), bound)
    terms = _Terms(row, np.where(flipped[row], n[row] - k, k), n[row], weight, flipped[row])
    terms = terms.select(terms.log_ceiling(start[row]) > np.log(_NEGLIGIBLE * alpha[row]))
    several = np.bincount(terms.row, minlength=n.size) > 1
    root, error = _solve(terms.select(several[terms.row]), n, alpha, start, several)
    flipped_root = np.nextafter(1 - root * (1 - error), 1)
    return np.where(several, np.where(flipped, flipped_root, root * (1 + error)), bound)


def _solve(
    terms: _Terms, n: Floats, alpha: Floats, start: Floats, active: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Newton's steps on log sum = log alpha in the log of p, or of 1 - p in flipped rows."""
    root, slopes, log_alpha = start.copy(), np.ones_like(start), np.log(alpha)
    for _ in range(_MAX_STEPS):
        if not active.any():
            return root, relative_error(n, alpha, slopes)
        total, slope = terms.sum_and_slope(root)
        at = np.flatnonzero(active)
        distance = np.log(total[at]) - log_alpha[at]
        slopes[at] = slope[at] / total[at]
        stepped = root[at] * np.exp(-distance / slopes[at])
        root[at] = np.minimum(stepped, (1 + root[at]) / 2)
        active = active.copy()
        active[at] = ~(np.abs(distance) < _STEP_IS_LAST)
        terms = terms.select(active[terms.row])
    worst = np.flatnonzero(active)[0]
    raise FloatingPointError(f"No bound found for n = {n[worst]}, alpha = {alpha[worst]}.")


@dataclass(frozen=True)
class _Terms:
    """The summands weight * P(Bin(n, p) <= N) of every row in one list.

    k is N, and the tail P(Bin(n, p) <= k); in flipped rows it is n - N, and P(Bin(n, q) >= k).
    """

    row: NDArray[np.intp]
    k: Floats
    n: Floats
    weight: Floats
    flipped: NDArray[np.bool_]

    def select(self, chosen: NDArray[np.bool_]) -> _Terms:
        return _Terms(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def log_ceiling(self, p: Floats) -> Floats:
        """Chernoff's bound of each log summand, where p lies beyond k / n."""
        return np.log(self.weight) - deviance(self.k, self.n, p)

    def sum_and_slope(self, root: Floats) -> tuple[Floats, Floats]:
        """Each row's sum and the sum's slope in log root."""
        p, k, n = root[self.row], self.k, self.n
        mass = np.exp(log_pmf(log_coefficient(k, n), k, n, p))
        tail = np.empty_like(p)
        down, up = ~self.flipped, self.flipped
        tail[down] = betaincc(k[down] + 1, n[down] - k[down], p[down])
        tail[up] = betainc(k[up], n[up] - k[up] + 1, p[up])
        slope = np.where(up, k, -(n - k) * p / (1 - p)) * mass
        return self._row_sums(tail, root.size), self._row_sums(slope, root.size)

    def _row_sums(self, values: Floats, rows: int) -> Floats:
        return np.asarray(np.bincount(self.row, self.weight * values, rows), np.float64)


def _runs(rows: Floats) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Row, value and length of each run of equal values."""
    starts = np.ones(rows.shape, dtype=bool)
    starts[:, 1:] = rows[:, 1:] != rows[:, :-1]
    flat = np.flatnonzero(starts)
    lengths = np.diff(flat, append=rows.size)
    return flat // rows.shape[1], rows.ravel()[flat], lengths.astype(np.float64)
