"""The joint bound: one exact test on t = Phi^-1(p_A) - Phi^-1(p_B) at the whole alpha."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from tcertify._checks import check_alphas, check_broadcast, check_whole_array

#: Above this the memory, which grows as the square root of n, would be beyond reason.
MAX_SAMPLES = 10**12
_CHUNK = 8


def joint_lower(
    k_a: ArrayLike, k_b: ArrayLike, n: ArrayLike, alpha: ArrayLike
) -> NDArray[np.float64]:
    """At most t = Phi^-1(p_A) - Phi^-1(p_B) with probability at least 1 - `alpha`.

    p_A is the probability of a class A that was fixed before the `n` samples were drawn, p_B that
    of the most probable other class. Nothing is assumed about the number of classes or about p_A,
    and `alpha` is spent once: a bound above 0 says that A is the most probable class, and
    ``sigma / 2`` times the bound is a certified l2 radius.

    Parameters
    ----------
    k_a : array_like of int
        Votes for A, 0 to `n`.
    k_b : array_like of int
        The largest number of votes that one other class got; `k_a` + `k_b` is at most `n`.
    n : array_like of int
        Samples, 1 to 10**12. The time of a bound grows with the square root of `n` where a third
        class has many votes, and nearly with `n` where none has: docs/joint.md.
    alpha : array_like of float
        Failure probability, in (0, 1).

    Returns
    -------
    ndarray of float64
        The bound, of either sign, in the shape to which the arguments broadcast. It is -inf where
        the counts support no bound, as at `k_a` = 0.

    Raises
    ------
    ValueError
        If an argument is out of its range, the shapes do not broadcast, or `k_a` + `k_b` > `n`.

    Notes
    -----
    The bound is the smallest t0 that the test of H0: t <= t0 does not reject. The test orders all
    outcomes (N_A, N_B) beforehand. It rejects when the outcomes ranked at least as high as the
    observed one have probability at most `alpha` under every (p_A, p_B) of H0 with p_A in a
    confidence interval that costs 1e-4 of `alpha` (Berger and Boos 1994). The supremum is bounded
    by branch and bound; what truncation leaves out and the rounding errors are added to the
    probability. So the result never lies above the exact bound of this ordering, and it lies below
    it by about a thousandth of a standard error. docs/joint.md has the proof.

    The exact bound falls with `k_b`, and what is computed does up to the tolerance of the search.
    Neither grows with `k_a` at every step: 131 votes beside 2, of 200 at alpha = 0.001, give
    1.866, and 130 give 1.878. Both bounds hold; no proof here asks for more.

    Equal rows are computed once, and different ones in parallel. The first call compiles the
    numerical kernel, or loads it from the cache.

    Examples
    --------
    >>> from tcertify.bounds import joint_lower
    >>> bound = joint_lower(990, [0, 5, 10], 1000, 0.001)
    >>> bound.round(2)
    array([4.57, 4.17, 3.96])
    """
    shaped = check_broadcast(
        k_a=check_whole_array("k_a", k_a),
        k_b=check_whole_array("k_b", k_b),
        n=check_whole_array("n", n, minimum=1, maximum=MAX_SAMPLES),
        alpha=check_alphas("alpha", alpha),
    )
    a, b, samples, level = shaped
    over = a + b > samples
    if over.any():
        got = f"{a[over][0]} + {b[over][0]} > {samples[over][0]}"
        raise ValueError(f"`k_a` + `k_b` must be at most `n`, got {got}.")
    return lower(a, b, samples, level)[()]


def lower(
    k_a: NDArray[np.int64],
    k_b: NDArray[np.int64],
    n: NDArray[np.int64],
    alpha: NDArray[np.float64],
    *,
    order: float | None = None,
) -> NDArray[np.float64]:
    """`joint_lower` of valid arguments: arrays of one shape, k_a and k_b and n of int64.

    With `order` the outcomes are ranked as at that level, not at `alpha`. The bound is as valid,
    and the exact bound then grows with `alpha`, which Holm's step-down test needs.
    """
    a, b, samples, level = k_a.ravel(), k_b.ravel(), n.ravel(), alpha.ravel()
    rows = np.lexsort((level, samples, b, a))
    new = np.ones(len(rows), dtype=bool)
    new[1:] = np.any([np.diff(column[rows]) != 0 for column in (a, b, samples, level)], axis=0)
    one = rows[new]
    # The ordering may be anything that depends on n and alpha alone.
    z = np.maximum(-ndtri(level[one] if order is None else np.full(len(one), order)), 0.0)
    bound = np.empty(len(rows))
    bound[rows] = _distinct(a[one], b[one], samples[one], level[one], z)[np.cumsum(new) - 1]
    return bound.reshape(k_a.shape)


def _distinct(
    k_a: NDArray[np.int64],
    k_b: NDArray[np.int64],
    n: NDArray[np.int64],
    alpha: NDArray[np.float64],
    z: NDArray[np.float64],
) -> NDArray[np.float64]:
    from ._joint_kernel import joint_rows  # numba loads here, not on import

    out = np.empty(len(k_a))
    starts = range(0, len(out), _CHUNK)

    def fill(start: int) -> None:
        rows = slice(start, start + _CHUNK)
        joint_rows(k_a[rows], k_b[rows], n[rows], alpha[rows], z[rows], out[rows])

    if len(starts) <= 1:
        fill(0)
    else:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(fill, starts))
    return out
