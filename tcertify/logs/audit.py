"""What the radii printed in a certification log reveal about the run that made them.

A radius of CERTIFY (Cohen et al. 2019) is sigma * Phi^-1 of the Clopper-Pearson bound of one of
n + 1 counts, so all radii of a run lie on one lattice, set by (n, alpha) alone. Where the lattice
is wider than the printed precision, a radius from another lattice misses it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincc, ndtr, ndtri

from tcertify._checks import check_alpha, check_positive, check_whole
from tcertify.certificates import METHODS, certify_votes
from tcertify.logs.tsv import Log
from tcertify.votes import Votes

#: What the field samples and states. alpha / 2 is what a two-sided interval at alpha spends.
N_CANDIDATES = (100, 1000, 10_000, 50_000, 100_000, 500_000, 1_000_000)
ALPHA_CANDIDATES = (0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1)

#: Computed radii of two sound implementations differ by less, in units of sigma.
_SLACK = 1e-9

#: Odds that a verdict needs: a thousand to one.
_EVIDENCE_NEEDED = 3.0

#: How the names of methods end whose radii are not those of plain CERTIFY at alpha.
_NOT_PLAIN = ("-charged", "-early", "-holm", "-planned", "-reported", "-reserved")

#: Beyond this many sigmas no radius can be: Phi(-38.6) is below the smallest float.
_LARGEST = 38.6

#: Between these the radii of a run, and its printed units, are normal floats.
_SIGMAS = 1e-250, 1e250

#: A foreign row in a log of the right lattice is this rare, as log10.
_MISFIT_PENALTY = 2.0


@dataclass(frozen=True)
class LatticeFit:
    """How well a log's radii lie on the lattice of one (n, alpha).

    Attributes
    ----------
    n, alpha
        The candidate.
    rows
        Rows with a radius above 0.
    misfits
        Rows whose radius no count gives, to the precision printed.
    expected_misfits
        Rows that would misfit on average if the radii had nothing to do with this lattice. Near 0
        the print is too coarse to tell.
    evidence
        log10 of the odds for this lattice against radii that know nothing of it, each distinct
        printed radius counted once; a misfit costs two. Above 3 it decides.
    """

    n: int
    alpha: float
    rows: int
    misfits: int
    expected_misfits: float
    evidence: float


@dataclass(frozen=True)
class Audit:
    """The verdict on a log.

    Attributes
    ----------
    fits
        Every candidate, the likeliest first.
    best
        The likeliest candidate, or None when no candidate is likely.
    stated
        The fit of the stated (n, alpha), or None when they were not stated.
    contradicted
        Whether another candidate decides and is at least 1000 times likelier than what was
        stated. False where no candidate fits: the stated (n, alpha) may be right, and sigma wrong,
        or the radii made by another method or by a run that stopped early.
    verdict
        The finding in words.
    """

    fits: tuple[LatticeFit, ...]
    best: LatticeFit | None
    stated: LatticeFit | None
    contradicted: bool
    verdict: str


def audit_log(
    log: Log,
    *,
    sigma: float,
    n: int | None = None,
    alpha: float | None = None,
    n_candidates: Iterable[int] = N_CANDIDATES,
    alpha_candidates: Iterable[float] = ALPHA_CANDIDATES,
) -> Audit:
    """Which (n, alpha) a CERTIFY log was made with, as its radii tell it.

    Parameters
    ----------
    log : Log
        As `tcertify.logs.read_log` returns it; radii rounded to nearest, as the field prints.
    sigma : float
        Noise of the run, positive.
    n, alpha : int, float, optional
        What the log's authors state; added to the candidates.
    n_candidates, alpha_candidates : iterable
        Every pair is tried.

    Returns
    -------
    Audit

    Raises
    ------
    ValueError
        An argument out of its range, a log in which every row abstains, or a radius that no votes
        can give at this `sigma`.

    Notes
    -----
    A radius of any other method than CERTIFY, one of a run that stopped early, and a wrong `sigma`
    fit no candidate, and the radii alone cannot tell which it is. Where the log itself names
    another method (`Log.methods`), nothing is tried.
    """
    sigma = _checked_sigma(log, sigma)
    sizes = {check_whole("n_candidates", size) for size in n_candidates}
    levels = {check_alpha("alpha_candidates", level) for level in alpha_candidates}
    sizes |= set() if n is None else {check_whole("n", n)}
    levels |= set() if alpha is None else {check_alpha("alpha", alpha)}
    if not (log.radius > 0).any():
        raise ValueError("Nothing to audit: no row of the log has a radius above 0.")
    if others := _other_methods(log):
        return Audit((), None, None, False, _foreign(others))
    fits = sorted(
        (_lattice_fit(log, sigma, size, level) for size in sizes for level in levels),
        key=lambda fit: (-fit.evidence, fit.misfits, fit.n, fit.alpha),
    )
    best = fits[0] if fits[0].evidence > _EVIDENCE_NEEDED else None
    stated = next((fit for fit in fits if (fit.n, fit.alpha) == (n, alpha)), None)
    contradicted = _is_contradicted(stated, fits[0])
    return Audit(tuple(fits), best, stated, contradicted, _verdict(fits, stated, contradicted))


def smallest_counts(log: Log, *, sigma: float, n: int, alpha: float) -> NDArray[np.int64]:
    """The fewest votes for the predicted class that each printed radius allows.

    Given that the log was made with `sigma`, `n` and `alpha`, no row had fewer votes. A radius
    that is on no lattice point gets the next one below it.

    Parameters
    ----------
    log : Log
        As for `audit_log`.
    sigma, n, alpha
        Of the run.

    Returns
    -------
    ndarray of int64
        Shape ``(M,)``; 0 for an abstention, which says nothing of its votes.

    Raises
    ------
    ValueError
        As for `audit_log`, or the log says that another method than CERTIFY made it.
    """
    sigma = _checked_sigma(log, sigma)
    n, alpha = check_whole("n", n), check_alpha("alpha", alpha)
    if others := _other_methods(log):
        raise ValueError(_foreign(others))
    low, high = _bounds_in_sigmas(log.radius, log.radius_step, sigma)
    counts, fits = _lattice_counts(low, high, n, alpha)
    return np.where(log.predict < 0, 0, np.where(fits, counts, counts - 1))


def recertify_log(
    log: Log, *, sigma: float, n: int, alpha: float, new_alpha: float
) -> NDArray[np.float64]:
    """Radii at another alpha, from the smallest count that each printed radius allows.

    Never above the radius that the run's own counts give at `new_alpha`. 0 where that abstains,
    and where the log does: an abstention hides its counts.

    Parameters
    ----------
    log, sigma, n, alpha
        As for `smallest_counts`.
    new_alpha : float
        In (0, 1).

    Returns
    -------
    ndarray of float64
        Shape ``(M,)``.
    """
    counts = smallest_counts(log, sigma=sigma, n=n, alpha=alpha)
    new_alpha = check_alpha("new_alpha", new_alpha)
    distinct, where = np.unique(counts, return_inverse=True)
    votes = Votes.of(np.stack([distinct, n - distinct], axis=1), np.zeros_like(distinct))
    found = certify_votes(votes, sigma=sigma, alpha=new_alpha, method="certify")
    return found.radius[where]


def _checked_sigma(log: Log, sigma: float) -> float:
    """The noise, for which no printed radius may be beyond all certificates."""
    sigma = check_positive("sigma", sigma)
    if not _SIGMAS[0] <= sigma <= _SIGMAS[1]:
        raise ValueError(f"`sigma` must be in [{_SIGMAS[0]:g}, {_SIGMAS[1]:g}], got {sigma}.")
    beyond = log.radius > _LARGEST * sigma
    if beyond.any():
        idx, radius = log.idx[beyond][0], log.radius[beyond][0]
        raise ValueError(
            f"The log's radius {radius:g} (index {idx}) is more than {_LARGEST} times "
            f"`sigma` = {sigma:g}, which no number of votes certifies."
        )
    return sigma


def _other_methods(log: Log) -> tuple[str, ...]:
    """The methods, other than CERTIFY, that a log of tcertify names."""
    known = {"predict", *METHODS} - {"certify"}
    return tuple(
        name
        for name in log.methods
        if name in known or re.fullmatch("top-[0-9]+", name) or name.endswith(_NOT_PLAIN)
    )


def _foreign(methods: tuple[str, ...]) -> str:
    return (
        f"The log says that its radii were made by {' and '.join(methods)}, not by plain CERTIFY: "
        "they lie on no lattice, and tell neither n nor alpha."
    )


def _lattice_fit(log: Log, sigma: float, n: int, alpha: float) -> LatticeFit:
    informative = log.radius > 0
    radius, first, where = np.unique(
        log.radius[informative], return_index=True, return_inverse=True
    )
    low, high = _bounds_in_sigmas(radius, log.radius_step[informative][first], sigma)
    counts, fits = _lattice_counts(low, high, n, alpha)
    chance = np.minimum(1.0, (high - low) / _spacing(radius / sigma, counts, n))
    return LatticeFit(
        n=n,
        alpha=alpha,
        rows=int(informative.sum()),
        misfits=int((~fits)[where].sum()),
        expected_misfits=float((1 - chance)[where].sum()),
        evidence=float(np.where(fits, -np.log10(chance), -_MISFIT_PENALTY).sum()),
    )


def _bounds_in_sigmas(
    radius: NDArray[np.float64], step: NDArray[np.float64], sigma: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What a printed radius may have been before it was printed, in units of sigma."""
    centre, half = radius / sigma, step / (2 * sigma) + _SLACK
    return np.maximum(centre - half, 0.0), centre + half


def _lattice_counts(
    low: NDArray[np.float64], high: NDArray[np.float64], n: int, alpha: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The fewest votes that certify `low`, n + 1 where none do; and whether they stay <= `high`."""
    # The bound of k votes is at least p if and only if P(Bin(n, p) >= k) <= alpha.
    counts = _guess(low, n, alpha)
    up = _tail(counts, n, low) > alpha
    down = _tail(counts - 1, n, low) <= alpha
    while (up | down).any():
        counts += up
        counts -= down & ~up
        up &= _tail(counts, n, low) > alpha
        down = down & ~up & (_tail(counts - 1, n, low) <= alpha)
    return counts, (counts <= n) & (_tail(counts, n, high) >= alpha)


def _guess(z: NDArray[np.float64], n: int, alpha: float) -> NDArray[np.int64]:
    """The upper alpha quantile of Bin(n, Phi(z)) by its first two cumulants and the skewness."""
    p, q, quantile = ndtr(z), ndtr(-z), -ndtri(alpha)
    guess = n * p + quantile * np.sqrt(n * p * q) + (quantile**2 - 1) / 6 * (q - p)
    return np.clip(np.rint(guess), 1, n + 1).astype(np.int64)


def _tail(k: NDArray[np.int64], n: int, z: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(Bin(n, Phi(z)) >= k) for 0 <= k <= n + 1."""
    inner = np.clip(k, 1, n)
    tail = betaincc(n - inner + 1, inner, ndtr(-z))
    return np.where(k > n, 0.0, np.where(k < 1, 1.0, tail))


def _spacing(z: NDArray[np.float64], counts: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Distance from a lattice radius to the one below, in sigmas, to first order."""
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    spacing: NDArray[np.float64] = ndtr(-z) / (np.maximum(n - counts, 0) + 1) / density
    return spacing


def _is_contradicted(stated: LatticeFit | None, likeliest: LatticeFit) -> bool:
    if stated is None or stated.misfits == 0 or likeliest.evidence <= _EVIDENCE_NEEDED:
        return False
    return likeliest.evidence - stated.evidence > _EVIDENCE_NEEDED


def _verdict(fits: list[LatticeFit], stated: LatticeFit | None, contradicted: bool) -> str:
    best = fits[0]
    found = f"n = {best.n}, alpha = {best.alpha:g} ({best.misfits} of {best.rows} radii misfit)"
    if best.evidence > _EVIDENCE_NEEDED:
        if contradicted and stated is not None:
            return (
                f"The stated n = {stated.n}, alpha = {stated.alpha:g} is wrong: "
                f"{stated.misfits} of {stated.rows} radii misfit it; the log was made with {found}."
            )
        rivals = [fit for fit in fits[1:] if best.evidence - fit.evidence <= _EVIDENCE_NEEDED]
        if rivals:
            return f"The log fits {found}, but the print is too coarse to rule out others."
        return f"The log was made with {found}."
    if max(fit.expected_misfits for fit in fits) < 1:
        return "The radii are printed too coarsely to tell n or alpha."
    whole = [fit for fit in fits if fit.misfits == 0]
    if whole:
        text = (
            f"{len(whole)} of {len(fits)} candidates have no misfit, but too few radii are printed "
            "finely enough to tell which of them made the log, if any."
        )
        if stated is not None and stated.misfits:
            text += (
                f" The stated n = {stated.n}, alpha = {stated.alpha:g} misfits {stated.misfits} of "
                f"{stated.rows} radii, as it would after another sigma, samples that stopped "
                "early, or another method than CERTIFY: which of these cannot be told."
            )
        return text
    return (
        "No candidate fits: another sigma, another (n, alpha), samples that stopped early, or "
        f"radii of another method than CERTIFY. Which of these cannot be told. Nearest: {found}."
    )
