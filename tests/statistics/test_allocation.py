import itertools
import re

import numpy as np
import pytest
from scipy import stats

from tcertify.bounds._approximate import approximate_lower
from tcertify.certificates import certify_counts
from tcertify.statistics.allocation import check_budget, plan_for_budget, plan_for_loss
from tcertify.statistics.stopping import Schedule
from tcertify.votes import Votes

SIZES = Schedule.geometric(10_000, 0.001).looks
PILOT = Votes.of(
    [[100, 0], [95, 3], [80, 15], [55, 45], [30, 60]], [0, 0, 0, 0, 0], [0, 2, 5, 0, 10]
)


def predicted(samples):
    """The radii, over sigma / 2, that a plan expects."""
    times = samples / PILOT.n
    gap = approximate_lower(PILOT.k_a * times, PILOT.k_b * times, samples, 0.001)
    return np.maximum(gap, 0)


@pytest.mark.parametrize("loss", [0.01, 0.05, 0.2])
def test_a_plan_takes_the_fewest_samples_that_keep_each_predicted_radius(loss):
    kept = (1 - loss) * predicted(np.full(5, 10_000))
    plan = plan_for_loss(PILOT, SIZES, alpha=0.001, radius_loss=loss)
    assert (predicted(plan) >= kept).all()
    fewer = np.array(SIZES)[np.maximum(np.searchsorted(SIZES, plan) - 1, 0)]
    assert ((predicted(fewer) < kept) | (plan == SIZES[0])).all()
    assert plan[4] == SIZES[0]  # is hopeless
    assert len(set(plan)) >= 3


def test_the_plan_of_an_image_looks_at_no_other():
    plan = plan_for_loss(PILOT, SIZES, alpha=0.001, radius_loss=0.05)
    alone = [plan_for_loss(PILOT[[i]], SIZES, alpha=0.001, radius_loss=0.05)[0] for i in range(5)]
    assert plan.tolist() == alone


def test_no_other_plan_of_the_same_budget_has_a_larger_predicted_radius():
    sizes, budget = (100, 1000, 10_000), 13_400
    plan = plan_for_budget(PILOT, sizes, alpha=0.001, budget=budget)
    assert plan.sum() <= budget
    others = (np.array(p) for p in itertools.product(sizes, repeat=5) if sum(p) <= plan.sum())
    assert predicted(plan).sum() >= max(predicted(p).sum() for p in others) * (1 - 1e-12)


def test_of_images_of_equal_votes_only_so_many_get_more_as_the_budget_allows():
    pilot = Votes.of([[95, 5]] * 4, [0] * 4)
    plan = plan_for_budget(pilot, (100, 1000), alpha=0.001, budget=2500)
    assert sorted(plan) == [100, 100, 1000, 1000]


def test_images_that_are_not_wanted_take_the_smallest_size():
    wanted = [False, True, True, True, True]
    for plan in (
        plan_for_loss(PILOT, SIZES, alpha=0.001, radius_loss=0.05, wanted=wanted),
        plan_for_budget(PILOT, SIZES, alpha=0.001, budget=20_000, wanted=wanted),
    ):
        assert plan[0] == SIZES[0]
        assert plan[1:].max() > SIZES[0]


def test_planned_certificates_fail_at_most_at_alpha_whatever_the_plan():
    # Two classes. The plan depends on the pilot alone, so that failure is a mean over its counts
    # of the failures at each size, and at most the largest of these. Between attained values of
    # Phi(radius) the failing votes of a size are the same, and more votes for A are likelier for
    # larger p_A: p_A just below such a value is the worst.
    pilot, sizes, alpha = 12, (6, 12, 24), 0.1
    k = np.arange(pilot + 1)
    plan = plan_for_loss(
        Votes.of(np.stack([k, pilot - k], axis=-1), np.zeros_like(k)),
        sizes,
        alpha=alpha,
        radius_loss=0.4,
    )
    assert set(plan) == set(sizes)
    radius = {size: radii(size, alpha) for size in sizes}
    worst, attained = 0.0, 0.0
    for p in np.unique(np.concatenate([stats.norm.cdf(r[r > 0]) for r in radius.values()])):
        fails = {size: wrong(radius[size], p) for size in sizes}
        worst = max(worst, *fails.values())
        weights = stats.binom.pmf(k, pilot, p)
        attained = max(attained, weights @ [fails[size] for size in plan])
    assert 0.5 * alpha < attained <= worst <= alpha


def test_a_pilot_counted_again_among_the_votes_that_certify_fails_more_often_than_alpha():
    # As in the code published with arXiv:2112.12084: the pilot chooses class and size, and its
    # votes are counted on. Two classes.
    pilot, sizes, alpha, p = 12, (12, 18, 24), 0.1, 0.602
    k = np.arange(pilot + 1)
    counts = np.stack([k, pilot - k], axis=-1)
    top = counts.argmax(axis=1)
    plan = plan_for_loss(Votes.of(counts, top), sizes, alpha=alpha, radius_loss=0.5)
    failure = 0.0
    for seen, chosen, size in zip(k, top, plan, strict=True):
        fresh = np.arange(size - pilot + 1)
        mass = stats.binom.pmf(seen, pilot, p) * stats.binom.pmf(fresh, size - pilot, p)
        votes = seen + fresh if chosen == 0 else size - seen - fresh
        radius = radii(size, alpha)[votes]
        failure += mass[(radius > 0) & (radius > stats.norm.ppf((p, 1 - p)[chosen]))].sum()
    assert failure == pytest.approx(0.1451, abs=1e-4)


def radii(size, alpha):
    votes = np.arange(size + 1)
    counts, zeros = np.stack([votes, size - votes], axis=-1), np.zeros_like(votes)
    return certify_counts(counts, zeros, sigma=1.0, alpha=alpha).radius


def wrong(radius, p):
    """P(radius too large) for p_A just below p."""
    fails = (radius > 0) & (stats.norm.cdf(radius) >= p)
    return stats.binom.pmf(np.arange(len(radius)), len(radius) - 1, p)[fails].sum()


# --- misuse -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius_loss": 1.0}, "`radius_loss` must be in (0, 1), got 1.0."),
        ({"sizes": [10, 10]}, "`sizes` must be increasing, got [10, 10]."),
        ({"sizes": []}, "`sizes` must be increasing, got []."),
        ({"sizes": [0, 10]}, "`sizes` must be at least 1, got 0."),
        ({"alpha": 0.0}, "`alpha` must be in (0, 1), got 0.0."),
    ],
)
def test_misuse_of_a_plan_is_named(change, message):
    arguments = {"sizes": [100, 1000], "alpha": 0.001, "radius_loss": 0.05} | change
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        plan_for_loss(PILOT, arguments.pop("sizes"), **arguments)


def test_a_budget_below_a_first_look_at_every_image_is_refused():
    message = (
        "`budget` must be at least 500, a first look of 100 samples for each of 5 images, got 499."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        plan_for_budget(PILOT, [100, 1000], alpha=0.001, budget=499)
    assert check_budget(500, 5, 100) == 500
