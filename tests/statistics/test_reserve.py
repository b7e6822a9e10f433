import math
import re

import numpy as np
import pytest
from scipy import stats

from tcertify.certificates import certify_counts
from tcertify.statistics.reserve import reserved, topped_up
from tcertify.statistics.stopping import Schedule


def test_the_reserve_is_what_the_levels_leave():
    schedule = reserved(10_000, 0.001, 0.25)
    assert schedule.n == 10_000
    assert schedule.alpha == pytest.approx(0.00075, rel=1e-12)
    assert schedule.alpha <= 0.00075


def test_topping_up_twice_gives_the_looks_of_topping_up_once():
    first = reserved(1000, 0.01, 0.5)
    once = topped_up(first, 8000, alpha=0.01)
    twice = topped_up(topped_up(first, 2000, alpha=0.01), 8000, alpha=0.01)
    assert once.looks == twice.looks == (*first.looks, 2000, 4000, 8000)
    np.testing.assert_allclose(once.levels, twice.levels, rtol=1e-12)
    assert math.fsum(once.levels) <= 0.01


def worst_failure(schedule, radii):
    """The largest P(some look's radius is too large) over p_A, for two classes: exact.

    Between two attained values of Phi(radius) the failing votes of all looks are the same, and
    more votes for A make each likelier, so that p_A just below such a value is the worst.
    """
    worst = 0.0
    for edge in np.unique(np.concatenate([stats.norm.cdf(r[r > 0]) for r in radii])):
        alive, seen, failed = np.ones(1), 0, 0.0
        for look, radius in zip(schedule.looks, radii, strict=True):
            step = stats.binom.pmf(np.arange(look - seen + 1), look - seen, edge)
            alive, seen = np.convolve(alive, step), look
            fails = (radius > 0) & (stats.norm.cdf(radius) >= edge)
            failed += alive[fails].sum()
            alive = np.where(fails, 0.0, alive)
        worst = max(worst, failed)
    return worst


@pytest.mark.parametrize("method", ["joint", "certify", "t-certify"])
def test_whoever_decides_how_far_each_image_goes_a_radius_fails_at_most_at_alpha(method):
    # The rule that knows the truth stops at the first radius that is too large; no other rule, and
    # no split of a budget over images, fails more often. Topping up is one of the choices.
    alpha, base = 0.1, Schedule((6, 12), (0.02, 0.03))
    schedule = topped_up(base, 48, alpha=alpha)
    radii = []
    for look, level in zip(schedule.looks, schedule.levels, strict=True):
        k = np.arange(look + 1)
        counts, zeros = np.stack([k, look - k], axis=-1), np.zeros_like(k)
        radii.append(certify_counts(counts, zeros, sigma=1.0, alpha=level, method=method).radius)
    worst = worst_failure(schedule, radii)
    assert 0.5 * alpha < worst <= alpha
    at_first = worst_failure(base, radii[:2])
    assert at_first <= base.alpha < worst


def test_samples_chosen_after_a_look_at_the_votes_would_fail_more_often():
    # The same level at 12, 15, ... or 48 samples, stopped at the first that errs: what a
    # top-up to a number chosen afterwards may amount to.
    looks = tuple(range(12, 49, 3))
    schedule = Schedule(looks, (0.02,) * len(looks))
    radii = []
    for look in looks:
        k = np.arange(look + 1)
        counts, zeros = np.stack([k, look - k], axis=-1), np.zeros_like(k)
        radii.append(certify_counts(counts, zeros, sigma=1.0, alpha=0.02, method="certify").radius)
    assert worst_failure(schedule, radii) > 2 * 0.02


BASE = Schedule((100, 200), (0.0001, 0.0004))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"alpha": 0.0005},
            "`alpha` must leave a reserve for further looks, but the levels of the run already sum"
            " to 0.0005 of 0.0005.",
        ),
        (
            {"n": 300},
            "`n` must be 200 times a power of two, the looks fixed beforehand, got 300.",
        ),
        (
            {"n": 200},
            "`n` must be 200 times a power of two, the looks fixed beforehand, got 200.",
        ),
        ({"n": 0}, "`n` must be at least 1, got 0."),
        ({"alpha": 1.0}, "`alpha` must be in (0, 1), got 1.0."),
    ],
)
def test_a_top_up_that_was_not_fixed_beforehand_is_refused(change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        topped_up(**({"schedule": BASE, "n": 400, "alpha": 0.001} | change))


@pytest.mark.parametrize("reserve", [0.0, 1.0, -0.5])
def test_a_reserve_of_nothing_or_all_is_refused(reserve):
    message = f"`reserve` must be in (0, 1), got {reserve}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        reserved(1000, 0.001, reserve)
