import math
import re
from fractions import Fraction

import numba
import numpy as np
import pytest

from tcertify.certificates import METHODS, certify_counts
from tcertify.statistics.stopping import Progress, Schedule, decide
from tests.enumerated import certified_t
from tests.reference import AnyLook, largest_probability, outcomes

JIT = not numba.config.DISABLE_JIT


SCHEDULES = (
    [
        Schedule((6, 12, 24), (0.01, 0.02, 0.07)),
        Schedule((16, 24), (0.0005, 0.0005)),
        Schedule.geometric(24, 0.3, first=5, ratio=1.5),
    ]
    if JIT
    else [Schedule((3, 6), (0.04, 0.16))]
)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_no_stopping_rule_fails_more_often_than_alpha(schedule, method):
    # A rule that saw the truth would stop at the first look whose bound is too large; no other
    # rule fails more often, so this bounds them all. As in `worst_failure`, one curve for each
    # attained value is enough.
    bounds = [
        certified_t(look, level, method)
        for look, level in zip(schedule.looks, schedule.levels, strict=True)
    ]
    values = np.unique(np.concatenate([bound[np.isfinite(bound)] for bound in bounds]))
    worst = 0.0
    for t in values:
        event = AnyLook(schedule.looks, [bound >= t for bound in bounds])
        met, _ = largest_probability(event, t, floor=schedule.alpha, tolerance=1e-9)
        worst = max(worst, met)
    assert worst <= schedule.alpha * (1 + 1e-9)
    assert worst > 0.2 * schedule.alpha  # the failures were looked for where they are


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("radii", [[0.0], [0.4], [0.0, 0.2, 0.4]])
def test_a_look_reports_what_it_certifies_at_its_own_level_or_nothing(method, radii):
    # so that no failure is left out above, whatever the rule that stops
    looks, sigma = (8, 16, 32) if JIT else (6, 9, 12), 1.0
    schedule = Schedule(looks, (0.02, 0.02, 0.06))
    for index, (look, level) in enumerate(zip(schedule.looks, schedule.levels, strict=True)):
        k_a, k_b = outcomes(look)
        progress = decide(
            np.stack([k_a, k_b], axis=-1),
            np.zeros_like(k_a),
            index,
            schedule=schedule,
            sigma=sigma,
            radii=radii,
            method=method,
            invalid=look - k_a - k_b,
        )
        own = np.maximum(certified_t(look, level, method)[k_a, k_b], 0) * sigma / 2
        reported = progress.radius > 0
        np.testing.assert_allclose(progress.radius[reported], own[reported], rtol=1e-14)
        assert (progress.look[reported] == index).all()
        assert progress.done.any()
        assert not progress.done.all() or index == 2


def run(schedule, p_a, p_b, *, radii, seed=0, images=200, **options):
    """Samples used, cells reached and looks, over simulated images that share one stream."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((images, 2), dtype=np.int64)
    history, so_far, used = [], None, np.zeros(images, dtype=np.int64)
    for index, (look, seen) in enumerate(zip(schedule.looks, (0, *schedule.looks), strict=False)):
        votes = rng.multinomial(look - seen, [p_a, p_b, 1 - p_a - p_b], size=images)
        counts = counts + votes[:, :2]
        history.append(counts)
        before = np.zeros(images, bool) if so_far is None else so_far.done
        so_far = decide(
            counts,
            np.zeros(images, int),
            index,
            schedule=schedule,
            sigma=0.5,
            radii=radii,
            invalid=look - counts.sum(1),
            so_far=so_far,
            **options,
        )
        used[so_far.done & ~before] = look
    return so_far, used, np.stack(history)


@pytest.mark.parametrize("method", METHODS)
def test_the_look_named_reproduces_the_radius_from_its_counts_and_level(method):
    schedule = Schedule.geometric(2000, 0.001)
    progress, _, history = run(schedule, 0.8, 0.1, radii=[0.0, 0.25, 0.5], method=method, images=50)
    assert progress.done.all()
    for image, (radius, look) in enumerate(zip(progress.radius, progress.look, strict=True)):
        counts = history[look, image]
        again = certify_counts(
            [counts],
            [0],
            sigma=0.5,
            alpha=schedule.levels[look],
            method=method,
            invalid=[schedule.looks[look] - counts.sum()],
        )
        assert again.radius[0] == radius


@pytest.mark.parametrize(
    ("p_a", "p_b", "radii", "mean_below"),
    [
        (0.9, 0.05, [0.25], 300),  # far above the target
        (0.9, 0.05, [1.5], 300),  # far below it
        (0.35, 0.5, [0.0], 300),  # another class wins
        (1.0, 0.0, [0.0, 0.5, 1.0], 3000),  # certain: the radius grows with n alone
    ],
)
def test_images_far_from_every_target_take_few_of_the_samples(p_a, p_b, radii, mean_below):
    schedule = Schedule.geometric(100_000, 0.001)
    progress, used, _ = run(schedule, p_a, p_b, radii=radii, images=50)
    assert progress.done.all()
    assert used.mean() < mean_below


def test_the_table_is_that_of_the_full_run_for_nearly_all_images():
    schedule, radii = Schedule.geometric(10_000, 0.001), np.arange(0, 2, 0.25)
    rng, used, changed = np.random.default_rng(3), [], 0
    for p_a in rng.uniform(0.55, 0.99, 20):
        progress, samples, history = run(schedule, p_a, 0.7 * (1 - p_a), radii=radii, images=8)
        full = certify_counts(
            history[-1],
            np.zeros(8, int),
            sigma=0.5,
            alpha=0.001,
            method="joint",
            invalid=10_000 - history[-1].sum(1),
        )
        changed += np.sum(
            np.searchsorted(radii, progress.radius, side="right")
            != np.searchsorted(radii, full.radius, side="right")
        )
        used.append(samples.mean())
    assert changed <= 2
    assert np.mean(used) < 10_000 / 2


def test_images_that_are_not_wanted_are_done_at_once_with_a_valid_certificate():
    schedule = Schedule.geometric(10_000, 0.001)
    first = schedule.looks[0]
    progress = decide(
        [[first - 20, 20]] * 2,
        [0, 0],
        0,
        schedule=schedule,
        sigma=1.0,
        radii=[1.2],
        wanted=[True, False],
    )
    alone = certify_counts(
        [[first - 20, 20]], [0], sigma=1.0, alpha=schedule.levels[0], method="joint"
    )
    assert progress.done.tolist() == [False, True]
    assert progress.radius.tolist() == [0.0, alone.radius[0]]


def test_images_at_different_looks_are_decided_in_one_call():
    schedule = Schedule((100, 1000, 10_000), (1e-4, 1e-4, 8e-4))
    counts = np.array([[90, 10], [950, 50], [9000, 1000]])
    together = decide(counts, 0, [0, 1, 2], schedule=schedule, sigma=0.5, radii=[0.25])
    for look in range(3):
        alone = decide(counts[look : look + 1], 0, look, schedule=schedule, sigma=0.5, radii=[0.25])
        assert together.radius[look] == alone.radius[0]
        assert together.done[look] == alone.done[0]


def test_an_image_that_was_done_stays_as_it_was():
    schedule = Schedule((100, 200), (1e-4, 9e-4))
    so_far = Progress(np.array([0.5]), np.array([0]), np.array([True]))
    after = decide([[200, 0]], [0], 1, schedule=schedule, sigma=0.5, radii=[0.25], so_far=so_far)
    assert (after.radius[0], after.look[0], after.done[0]) == (0.5, 0, True)


def test_the_running_best_never_falls():
    schedule = Schedule((100, 200), (5e-4, 5e-4))
    so_far = Progress(np.array([0.6]), np.array([0]), np.array([False]))
    after = decide([[120, 80]], [0], 1, schedule=schedule, sigma=0.5, radii=[0.25], so_far=so_far)
    assert (after.radius[0], after.look[0], after.done[0]) == (0.6, 0, True)


@pytest.mark.parametrize("alpha", [0.001, 0.05, 1e-6])
@pytest.mark.parametrize("n", [1, 50, 100, 1234, 100_000])
@pytest.mark.parametrize("make", [Schedule.single, Schedule.geometric])
def test_schedules_end_at_n_and_never_spend_more_than_alpha(make, n, alpha):
    schedule = make(n, alpha)
    assert schedule.n == n
    assert alpha * (1 - 1e-12) <= sum(map(Fraction, schedule.levels)) <= alpha
    assert all(look >= min(100, n) for look in schedule.looks)


@pytest.mark.parametrize("alpha", [1e-9, 0.002, 0.9])
def test_a_scaled_schedule_keeps_its_looks_and_the_proportions_of_its_levels(alpha):
    schedule = Schedule.geometric(10_000, 0.001)
    scaled = schedule.scaled(alpha)
    assert scaled.looks == schedule.looks
    assert sum(map(Fraction, scaled.levels)) <= alpha
    np.testing.assert_allclose(np.divide(scaled.levels, schedule.levels), alpha / 0.001, rtol=1e-12)


GOOD = {
    "counts": [[90, 10]],
    "top": [0],
    "look": 0,
    "sigma": 0.5,
    "radii": [0.25],
    "schedule": Schedule((100, 200), (1e-4, 9e-4)),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": [90, 10], "top": 0}, "`top` must have shape (), got (2,)."),
        ({"counts": [[[90, 10]]], "top": [[0]]}, "`counts` must have shape (S, C), got (1, 1, 2)."),
        ({"counts": [[100]]}, "`counts` must have at least 2 classes, got shape (1, 1)."),
        ({"counts": [[90, 9]]}, "`counts` must sum to the samples of their look, 100, got 99."),
        ({"counts": [[-1, 101]]}, "`counts` must be at least 0, got -1."),
        ({"top": [2]}, "`top` must be at most 1, got 2."),
        ({"top": [0, 0]}, "`top` must have shape (1,), got (2,)."),
        ({"look": 2}, "`look` must be at most 1, got 2."),
        ({"look": [0, 0]}, "`look` must have shape (1,), got (2,)."),
        ({"invalid": [5]}, "`counts` must sum to the samples of their look, 100, got 105."),
        ({"sigma": 0.0}, "`sigma` must be positive and finite, got 0.0."),
        ({"radii": []}, "`radii` must hold at least one radius, got none."),
        ({"radii": [math.nan]}, "`radii` must be at least 0 and finite, got nan."),
        ({"radii": [-0.25, 1]}, "`radii` must be at least 0 and finite, got -0.25."),
        ({"method": "basic"}, "`method` must be one of joint, t-certify, certify, got 'basic'."),
    ],
)
def test_misuse_is_named(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        decide(**(GOOD | change))


@pytest.mark.parametrize(
    ("looks", "levels", "message"),
    [
        ((), (), "`looks` must be increasing, got ()."),
        ((100, 100), (0.1, 0.1), "`looks` must be increasing, got (100, 100)."),
        ((0, 100), (0.1, 0.1), "`looks` must be at least 1, got 0."),
        ((100, 200), (0.1,), "`levels` must be one per look, got 1 for 2."),
        ((100, 200), (0.1, 0.0), "`levels` must be in (0, 1), got 0.0."),
        ((100, 200), (0.6, 0.6), "`sum of levels` must be in (0, 1), got 1.2."),
    ],
)
def test_a_schedule_that_spends_nonsense_is_refused(looks, levels, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Schedule(looks, levels)


def test_geometric_refuses_a_ratio_of_one_and_a_share_of_zero():
    with pytest.raises(ValueError, match=r"`ratio` must be above 1, got 1\."):
        Schedule.geometric(100, 0.1, ratio=1)
    with pytest.raises(ValueError, match=r"`final_share` must be in \(0, 1\], got 0\."):
        Schedule.geometric(100, 0.1, final_share=0)
