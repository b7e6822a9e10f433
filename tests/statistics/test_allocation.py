import itertools
import re

import numpy as np
import pytest
from scipy import stats

from tcertify.bounds._approximate import approximate_lower
from tcertify.certificates import certify_counts
from tcertify.statistics.allocation import (
    chance_per_sample,
    check_budget,
    plan_samples,
)
from tcertify.statistics.stopping import Schedule
from tcertify.votes import Votes

SIZES = Schedule.geometric(10_000, 0.001).looks
PILOT = Votes.of(
    [[100, 0], [95, 3], [80, 15], [55, 45], [30, 60]], [0, 0, 0, 0, 0], [0, 2, 5, 0, 10]
)


def predicted(samples):
    """The sum of the radii, over sigma / 2, that a plan expects."""
    times = samples / PILOT.n
    gap = approximate_lower(PILOT.k_a * times, PILOT.k_b * times, samples, 0.001)
    return np.maximum(gap, 0).sum()


@pytest.mark.parametrize("loss", [0.01, 0.05, 0.2])
def test_a_plan_keeps_the_predicted_radius_with_fewer_samples_than_any_fixed_number(loss):
    full = predicted(np.full(5, 10_000))
    plan = plan_samples(PILOT, SIZES, alpha=0.001, radius_loss=loss)
    assert set(plan) <= set(SIZES)
    assert predicted(plan) >= (1 - loss) * full
    enough = min(n for n in SIZES if predicted(np.full(5, n)) >= (1 - loss) * full)
    assert plan.mean() < 0.9 * enough
    assert plan[4] == SIZES[0]  # is hopeless


def test_no_other_plan_of_the_same_budget_has_a_larger_predicted_radius():
    sizes, budget = (100, 1000, 10_000), 13_400
    plan = plan_samples(PILOT, sizes, alpha=0.001, budget=budget)
    assert plan.sum() <= budget
    others = (np.array(p) for p in itertools.product(sizes, repeat=5) if sum(p) <= plan.sum())
    assert predicted(plan) >= max(map(predicted, others)) * (1 - 1e-12)


def test_of_images_of_equal_votes_only_so_many_get_more_as_the_budget_allows():
    pilot = Votes.of([[95, 5]] * 4, [0] * 4)
    plan = plan_samples(pilot, (100, 1000), alpha=0.001, budget=2500)
    assert plan.tolist() == [1000, 1000, 100, 100]


def test_images_that_are_not_wanted_take_the_smallest_size():
    wanted = [False, True, True, True, True]
    plan = plan_samples(PILOT, SIZES, alpha=0.001, radius_loss=0.05, wanted=wanted)
    assert plan[0] == SIZES[0]
    assert plan[1:].max() > SIZES[0]


def test_planned_certificates_fail_at_most_at_alpha_whatever_the_plan():
    # Two classes. The plan depends on the pilot alone, so that failure is a mean over its counts
    # of the failures at each size, and at most the largest of these. Between attained values of
    # Phi(radius) the failing votes of a size are the same, and more votes for A are likelier for
    # larger p_A: p_A just below such a value is the worst.
    pilot, sizes, alpha = 12, (6, 12, 24), 0.1
    k = np.arange(pilot + 1)
    plan = plan_samples(
        Votes.of(np.stack([k, pilot - k], axis=-1), np.zeros_like(k)),
        sizes,
        alpha=alpha,
        radius_loss=0.2,
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
    # votes are counted on. Two classes of nearly equal probability.
    pilot, sizes, alpha, p = 12, (12, 18, 24), 0.1, 0.524664
    k = np.arange(pilot + 1)
    counts = np.stack([k, pilot - k], axis=-1)
    top = counts.argmax(axis=1)
    plan = plan_samples(Votes.of(counts, top), sizes, alpha=alpha, radius_loss=0.2)
    failure = 0.0
    for seen, chosen, size in zip(k, top, plan, strict=True):
        fresh = np.arange(size - pilot + 1)
        mass = stats.binom.pmf(seen, pilot, p) * stats.binom.pmf(fresh, size - pilot, p)
        votes = seen + fresh if chosen == 0 else size - seen - fresh
        radius = radii(size, alpha)[votes]
        failure += mass[(radius > 0) & (radius > stats.norm.ppf((p, 1 - p)[chosen]))].sum()
    assert failure == pytest.approx(0.1511, abs=1e-4)


def radii(size, alpha):
    votes = np.arange(size + 1)
    counts, zeros = np.stack([votes, size - votes], axis=-1), np.zeros_like(votes)
    return certify_counts(counts, zeros, sigma=1.0, alpha=alpha).radius


def wrong(radius, p):
    """P(radius too large) for p_A just below p."""
    fails = (radius > 0) & (stats.norm.cdf(radius) >= p)
    return stats.binom.pmf(np.arange(len(radius)), len(radius) - 1, p)[fails].sum()


# --- cells ------------------------------------------------------------------------------------

SCHEDULE = Schedule.geometric(10_000, 0.001)
LOOK = 10


def chances(counts, radii):
    votes = Votes.of(
        counts, np.zeros(len(counts), int), SCHEDULE.looks[LOOK] - np.sum(counts, axis=1)
    )
    return chance_per_sample(votes, LOOK, radii, schedule=SCHEDULE, sigma=0.5)


def test_samples_go_first_to_the_image_that_needs_the_fewest_for_its_next_cell():
    seen = SCHEDULE.looks[LOOK]
    counts = [[seen - 40, 40], [seen - 60, 60], [seen - 95, 95], [seen // 2 - 40, seen // 2]]
    near, far, never, behind = chances(counts, [0.5])
    assert near > 2 * far > 2 * never > 0
    assert behind < 1e-6 * near


def test_there_is_nothing_to_gain_at_the_last_look_or_beyond_the_largest_radius():
    votes = Votes.of([[9000, 1000]], [0])
    last = len(SCHEDULE.looks) - 1
    assert chance_per_sample(votes, last, [0.9], schedule=SCHEDULE, sigma=0.5) == 0
    assert chances([[SCHEDULE.looks[LOOK], 0]], [0.0, 0.25]) == 0


def test_the_chance_is_about_how_often_the_target_is_reached():
    schedule, sigma, target = Schedule((1000, 2000), (5e-4, 5e-4)), 0.5, 0.5
    votes = Votes.of([[866, 134]], [0])
    guess = chance_per_sample(votes, 0, [target], schedule=schedule, sigma=sigma)[0] * 1000
    share = np.random.default_rng(1).beta(867, 135, 2000)
    a = np.random.default_rng(0).binomial(1000, share) + 866
    found = certify_counts(
        np.stack([a, 2000 - a], axis=-1), np.zeros(2000, int), sigma=sigma, alpha=5e-4
    ).radius
    assert guess == pytest.approx((found >= target).mean(), abs=0.06)


# --- misuse -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius_loss": None}, "`radius_loss` or `budget` must be given, and not both."),
        ({"budget": 1000}, "`radius_loss` or `budget` must be given, and not both."),
        ({"radius_loss": 1.0}, "`radius_loss` must be in (0, 1), got 1.0."),
        ({"sizes": [10, 10]}, "`sizes` must be increasing, got [10, 10]."),
        ({"sizes": []}, "`sizes` must be increasing, got []."),
        ({"sizes": [0, 10]}, "`sizes` must be at least 1, got 0."),
        ({"alpha": 0.0}, "`alpha` must be in (0, 1), got 0.0."),
        (
            {"radius_loss": None, "budget": 499},
            "`budget` must be at least 500, a first look of 100 samples for each of 5 images,"
            " got 499.",
        ),
    ],
)
def test_misuse_of_a_plan_is_named(change, message):
    arguments = {"sizes": [100, 1000], "alpha": 0.001, "radius_loss": 0.05} | change
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        plan_samples(PILOT, arguments.pop("sizes"), **arguments)


def test_a_budget_that_is_enough_is_returned():
    assert check_budget(500, 5, 100) == 500
