import math
import re

import numpy as np
import pytest
from scipy.special import gammaln, ndtr, ndtri

from tcertify.bounds import joint_lower
from tcertify.certificates import certify_counts
from tcertify.statistics.stopping import Progress, Schedule, approximate_lower, decide


def trinomials(n):
    """All (k_a, k_b) with k_a + k_b <= n, and the log of their multinomial coefficients."""
    k_a, k_b = (k.ravel() for k in np.indices((n + 1, n + 1)))
    k_a, k_b = k_a[k_a + k_b <= n], k_b[k_a + k_b <= n]
    return (
        k_a,
        k_b,
        gammaln(n + 1) - gammaln(k_a + 1) - gammaln(k_b + 1) - gammaln(n - k_a - k_b + 1),
    )


def trinomial_mass(n, p_a, p_b):
    """P(N_A = i, N_B = j) as an (n + 1, n + 1) array."""
    k_a, k_b, log_ways = trinomials(n)
    rest = max(1 - p_a - p_b, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = [
            np.where(k > 0, k * np.log(p), 0.0)
            for k, p in ((k_a, p_a), (k_b, p_b), (n - k_a - k_b, rest))
        ]
    mass = np.zeros((n + 1, n + 1))
    mass[k_a, k_b] = np.exp(log_ways + sum(logs))
    return mass


def convolve(mass, step):
    """The distribution of the votes after `step` more of them."""
    size = mass.shape[0] + step.shape[0] - 1
    out = np.zeros((size, size))
    for i, j in zip(*np.nonzero(step), strict=True):
        out[i : i + mass.shape[0], j : j + mass.shape[1]] += step[i, j] * mass
    return out


def failure(looks, fails, stops, p_a, p_b):
    """P(an unstopped run meets a failing outcome), by recursion over (look, votes)."""
    alive, seen, total = np.ones((1, 1)), 0, 0.0
    for look, fail, stop in zip(looks, fails, stops, strict=True):
        alive = convolve(alive, trinomial_mass(look - seen, p_a, p_b))
        total += alive[fail].sum()
        alive = np.where(fail | stop, 0.0, alive)
        seen = look
    return total


def curve(t, points=25):
    """(p_A, p_B) with Phi^-1(p_A) - Phi^-1(p_B) = t, from far down to p_A + p_B = 1."""
    z = np.linspace(t / 2 - 4, t / 2, points)
    return zip(ndtr(z), ndtr(z - t), strict=True)


def lower_t(look, level, method):
    """The bound on t of every outcome of a look, where it certifies; -inf elsewhere."""
    bound = np.full((look + 1, look + 1), -np.inf)
    k_a, k_b, _ = trinomials(look)
    found = certify_counts(
        np.stack([k_a, k_b], axis=-1),
        np.zeros_like(k_a),
        sigma=2.0,
        alpha=level,
        method=method,
        invalid=look - k_a - k_b,
    )
    bound[k_a, k_b] = np.where(found.radius > 0, found.radius, -np.inf)
    return bound


SCHEDULES = [
    Schedule((6, 12, 24), (0.01, 0.02, 0.07)),
    Schedule((16, 24), (0.0005, 0.0005)),
    Schedule.geometric(24, 0.3, first=5, ratio=1.5),
    Schedule.doubling(24, 0.01, first=6),
]


@pytest.mark.parametrize("method", ["joint", "certify", "t-certify"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_no_stopping_rule_fails_more_often_than_alpha(schedule, method):
    # A rule that saw the truth would stop at the first look whose bound is too large; no other
    # rule fails more often, so this bounds them all.
    bounds = [
        lower_t(look, level, method)
        for look, level in zip(schedule.looks, schedule.levels, strict=True)
    ]
    values = np.unique(np.concatenate([bound[np.isfinite(bound)] for bound in bounds]))
    never = [np.zeros_like(bound, dtype=bool) for bound in bounds]
    worst = max(
        failure(schedule.looks, [bound >= t for bound in bounds], never, p_a, p_b)
        for t in values[:: max(1, len(values) // 12)]
        for p_a, p_b in curve(t, 9)
    )
    assert worst <= schedule.alpha * (1 + 1e-6)
    assert worst > 0.2 * schedule.alpha  # the failures were looked for where they are


@pytest.mark.parametrize("method", ["joint", "certify", "t-certify"])
@pytest.mark.parametrize("target", [0.0, 0.4])
def test_the_radius_reported_when_done_fails_at_most_at_alpha(method, target):
    # With one target an image runs on until its radius reaches it, so that what was found before
    # does not matter and the recursion over (look, votes) is exact.
    schedule, sigma = Schedule((8, 16, 32), (0.02, 0.02, 0.06)), 1.0
    radii, stops = [], []
    for index, look in enumerate(schedule.looks):
        k_a, k_b, _ = trinomials(look)
        progress = decide(
            np.stack([k_a, k_b], axis=-1),
            np.zeros_like(k_a),
            index,
            schedule=schedule,
            sigma=sigma,
            radii=[target],
            method=method,
            invalid=look - k_a - k_b,
            futility=0.01,
        )
        radius, stop = np.zeros((2, look + 1, look + 1))
        radius[k_a, k_b], stop[k_a, k_b] = progress.radius, progress.done
        radii.append(radius)
        stops.append(stop.astype(bool))
    assert not stops[0].all()
    assert stops[0].any()
    values = np.unique(np.concatenate([radius[radius > 0] for radius in radii]))
    for value in values[:: max(1, len(values) // 12)]:
        fails = [radius >= value for radius in radii]
        for p_a, p_b in curve(2 * value / sigma, 9):
            assert failure(schedule.looks, fails, stops, p_a, p_b) <= 0.1 * (1 + 1e-6)


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


@pytest.mark.parametrize("method", ["joint", "certify", "t-certify"])
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


def test_without_futility_the_cell_is_at_least_that_of_the_last_look():
    # The exact rules never give up a target that the last look would certify.
    schedule, radii = Schedule.geometric(1000, 0.001, ratio=1.5), np.arange(0, 2, 0.25)
    progress, used, history = run(schedule, 0.9, 0.06, radii=radii, futility=0.0)
    final = certify_counts(
        history[-1],
        np.zeros(200, int),
        sigma=0.5,
        alpha=schedule.levels[-1],
        method="joint",
        invalid=1000 - history[-1].sum(1),
    )
    cell = np.searchsorted(radii, progress.radius, side="right")
    assert (cell >= np.searchsorted(radii, final.radius, side="right")).all()
    assert used.mean() < 1000


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
    schedule = Schedule.doubling(10_000, 0.001)
    first = schedule.looks[0]
    progress = decide(
        [[first - 20, 20]] * 2,
        [0, 0],
        0,
        schedule=schedule,
        sigma=1.0,
        radii=[1.2],
        futility=0.0,
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


@pytest.mark.parametrize(("n", "alpha"), [(100, 0.001), (1000, 1e-5), (100_000, 0.0008)])
def test_the_approximate_bound_is_near_the_proved_one(n, alpha):
    rng = np.random.default_rng(0)
    k_a = np.append(rng.integers(n // 3, n + 1, 60), [n, n - 1, n - 5])
    k_b = (rng.uniform(0, 1, 63) ** 2 * (n - k_a)).astype(int)
    bound = joint_lower(k_a, k_b, n, alpha)
    slack = -ndtri(alpha) * np.sqrt(1 / n) * 2
    assert np.abs(approximate_lower(k_a, k_b, n, alpha) - bound).max() < max(0.1, slack)


@pytest.mark.parametrize("alpha", [0.001, 0.05, 1e-6])
@pytest.mark.parametrize("n", [1, 50, 100, 1234, 100_000])
@pytest.mark.parametrize("make", [Schedule.single, Schedule.doubling, Schedule.geometric])
def test_schedules_end_at_n_and_never_spend_more_than_alpha(make, n, alpha):
    schedule = make(n, alpha)
    assert schedule.n == n
    assert alpha * (1 - 1e-12) <= math.fsum(schedule.levels) <= alpha
    assert all(look >= min(100, n) for look in schedule.looks)


def test_doubling_keeps_nine_tenths_of_alpha_for_the_last_look():
    schedule = Schedule.doubling(800, 0.01)
    assert schedule.looks == (100, 200, 400, 800)
    np.testing.assert_allclose(schedule.levels, [0.001 / 3] * 3 + [0.009])


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
        ({"counts": [90, 10]}, "`counts` must have shape (S, C) with C >= 2, got (2,)."),
        ({"counts": [[100]]}, "`counts` must have shape (S, C) with C >= 2, got (1, 1)."),
        ({"counts": [[90, 9]]}, "`counts` must sum to the samples of their look, 100, got 99."),
        ({"counts": [[-1, 101]]}, "`counts` must be at least 0, got -1."),
        ({"top": [2]}, "`top` must be at most 1, got 2."),
        ({"top": [0, 0]}, "`top` must have shape (1,), got (2,)."),
        ({"look": 2}, "`look` must be at most 1, got 2."),
        ({"look": [0, 0]}, "`look` must have shape (1,), got (2,)."),
        ({"invalid": [5]}, "`counts` must sum to the samples of their look, 100, got 105."),
        ({"sigma": 0.0}, "`sigma` must be positive and finite, got 0.0."),
        ({"radii": []}, "`radii` must be non-negative and finite, got none."),
        ({"radii": [math.nan]}, "`radii` must be non-negative and finite, got nan."),
        ({"radii": [-0.25, 1]}, "`radii` must be non-negative and finite, got -0.25."),
        ({"futility": 0.5}, "`futility` must be in [0, 0.5), got 0.5."),
        ({"futility": math.nan}, "`futility` must be in [0, 0.5), got nan."),
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
