import itertools
import re

import numpy as np
import pytest
from scipy import stats

from tcertify.bounds import clopper_pearson_lower, clopper_pearson_upper
from tcertify.certificates import certify_counts
from tcertify.statistics.curves import (
    average_certified_radius,
    certified_accuracy,
    certify_family,
    expected_wrong_certificates,
    p_a_distribution,
)

RADIUS = np.array([0.0, 0.2, 0.5, 0.5, 1.3, 0.9])
CORRECT = np.array([False, True, True, False, True, True])


def test_certified_accuracy_counts_right_images_with_at_least_the_radius():
    curve = certified_accuracy(RADIUS, CORRECT, [0.0, 0.2, 0.5, 0.51, 1.3, 1.4])
    np.testing.assert_array_equal(curve.share, np.array([4, 4, 3, 2, 1, 0]) / 6)


def test_the_interval_is_clopper_pearson_with_half_of_alpha_on_each_side():
    curve = certified_accuracy(RADIUS, CORRECT, [[0.0, 0.5]], alpha=0.1)
    assert curve.lower.shape == (1, 2)
    np.testing.assert_array_equal(curve.lower, clopper_pearson_lower([[4, 3]], 6, 0.05))
    np.testing.assert_array_equal(curve.upper, clopper_pearson_upper([[4, 3]], 6, 0.05))
    oracle = stats.binomtest(3, 6).proportion_ci(0.9, method="exact")
    np.testing.assert_allclose([curve.lower[0, 1], curve.upper[0, 1]], oracle, rtol=1e-6)


def test_the_interval_covers_the_population_share_for_every_share():
    images = 12
    for share in np.linspace(0, 1, 101):
        mass = stats.binom.pmf(np.arange(images + 1), images, share)
        covered = 0.0
        for hits in range(images + 1):
            correct = np.arange(images) < hits
            curve = certified_accuracy(np.ones(images), correct, 0.5, alpha=0.1)
            covered += mass[hits] * bool(curve.lower <= share <= curve.upper)
        assert covered >= 0.9 - 1e-12


def test_the_p_a_distribution_counts_right_images_at_each_level():
    curve = p_a_distribution([0.4, 0.9, 0.99, 0.99], [False, True, True, False], [0.5, 0.95, 1.0])
    assert curve.share.tolist() == [0.5, 0.25, 0.0]
    assert (curve.lower <= curve.share).all()
    assert (curve.share <= curve.upper).all()


def test_the_average_radius_is_the_area_under_certified_accuracy():
    rng = np.random.default_rng(0)
    radius, correct = rng.exponential(size=300), rng.uniform(size=300) < 0.7
    grid = np.linspace(0, radius.max(), 20_001)
    area = np.trapezoid(certified_accuracy(radius, correct, grid).share, grid)
    assert average_certified_radius(radius, correct).value == pytest.approx(area, abs=1e-3)


def test_the_bootstrap_interval_agrees_with_the_normal_one_and_is_reproducible():
    rng = np.random.default_rng(0)
    radius, correct = rng.exponential(size=2000), rng.uniform(size=2000) < 0.7
    found = average_certified_radius(radius, correct, alpha=0.05, resamples=2000)
    scores = radius * correct
    half = 1.96 * scores.std() / np.sqrt(2000)
    assert found.lower == pytest.approx(scores.mean() - half, abs=0.1 * half)
    assert found.upper == pytest.approx(scores.mean() + half, abs=0.1 * half)
    assert average_certified_radius(radius, correct, alpha=0.05, resamples=2000) == found
    assert average_certified_radius(radius, correct, resamples=2000, seed=1).lower != found.lower


def test_one_image_and_equal_images_give_an_interval_without_width():
    one = average_certified_radius([0.5], [True])
    assert (one.value, one.lower, one.upper) == (0.5, 0.5, 0.5)
    same = average_certified_radius([0.5] * 9, [True] * 9)
    assert (same.value, same.lower, same.upper) == (0.5, 0.5, 0.5)


def test_wrong_certificates_are_expected_in_proportion():
    assert expected_wrong_certificates(500, 0.001) == 0.5


@pytest.mark.parametrize("method", ["joint", "certify", "t-certify"])
def test_a_family_of_one_is_an_ordinary_certificate(method):
    votes = [[80, 20]]
    alone = certify_counts(votes, [0], sigma=1.0, alpha=0.01, method=method).radius[0]
    for radius, answer in ((alone, True), (alone * 1.0001, False), (0.0, True)):
        family = certify_family(votes, [0], radius, sigma=1.0, alpha=0.01, method=method)
        assert family.tolist() == [answer]


@pytest.mark.parametrize("method", ["certify", "joint"])
def test_holm_steps_down_where_bonferroni_stops(method):
    # At alpha / 2 only the first passes; the second then has all of alpha.
    votes, lone = [[100, 0], [66, 34]], {}
    for level in (0.005, 0.01):
        lone[level] = certify_counts(votes, [0, 0], sigma=1.0, alpha=level, method=method).radius
    radius = (lone[0.005][1] + lone[0.01][1]) / 2
    assert lone[0.005][1] < radius < lone[0.01][1]
    both = certify_family(votes, [0, 0], radius, sigma=1.0, alpha=0.01, method=method)
    assert both.tolist() == [True, True]
    hard = [[70, 30], [66, 34]]
    higher = certify_counts(hard, [0, 0], sigma=1.0, alpha=0.005, method=method).radius[0] + 0.01
    neither = certify_family(hard, [0, 0], [higher, radius], sigma=1.0, alpha=0.01, method=method)
    assert neither.tolist() == [False, False]


def test_holm_agrees_with_exact_p_values_for_certify():
    rng = np.random.default_rng(0)
    k = rng.integers(50, 101, 40)
    family = certify_family(
        np.stack([k, 100 - k], axis=1),
        np.zeros(40, int),
        0.5,
        sigma=1.0,
        alpha=0.05,
        method="certify",
    )
    p_values = np.sort(stats.binom.sf(k - 1, 100, stats.norm.cdf(0.5)))
    passed = p_values * np.arange(40, 0, -1) <= 0.05
    expected = 40 if passed.all() else int(np.argmin(passed))
    assert family.sum() == expected
    assert 0 < expected < 40


@pytest.mark.parametrize("method", ["joint", "certify"])
def test_any_error_in_a_family_has_probability_at_most_alpha(method):
    # Three inputs, all of them exactly at the radius: every certificate is an error.
    n, alpha, radius, inputs = 12, 0.2, 0.25, 3
    p_a = stats.norm.cdf(radius)
    outcomes = np.arange(n + 1)
    mass = stats.binom.pmf(outcomes, n, p_a)
    error = 0.0
    for family in itertools.combinations_with_replacement(outcomes, inputs):
        k = np.array(family)
        orders = len(set(itertools.permutations(family)))
        passed = certify_family(
            np.stack([k, n - k], axis=1),
            np.zeros(inputs, int),
            radius,
            sigma=1.0,
            alpha=alpha,
            method=method,
        )
        error += orders * mass[k].prod() * passed.any()
    assert 0.01 < error <= alpha


@pytest.mark.parametrize("function", [certified_accuracy, p_a_distribution])
@pytest.mark.parametrize(
    ("values", "correct", "message"),
    [
        ([0.1, np.nan], [True, True], "must be non-negative and finite, got nan."),
        ([0.1, -0.5], [True, True], "must be non-negative and finite, got -0.5."),
        ([0.1, 0.2], [1, 0], "`correct` must be bool, got int64."),
        ([0.1, 0.2], [True], "equally long and not empty, got shapes (2,) and (1,)."),
        ([], np.array([], bool), "equally long and not empty, got shapes (0,) and (0,)."),
        ([[0.1]], [[True]], "must be 1-d, equally long and not empty"),
        (["a"], [True], "must be a number"),
    ],
)
def test_bad_arrays_are_named(function, values, correct, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        function(values, correct, [0.5])


def test_other_misuse_is_named():
    with pytest.raises(ValueError, match=r"`p_a_lower` must be in \[0, 1\], got 1\.5\."):
        p_a_distribution([1.5], [True], [0.5])
    with pytest.raises(ValueError, match=r"`alpha` must be in \(0, 1\), got 95\.0\."):
        certified_accuracy([0.5], [True], [0.5], alpha=95)
    with pytest.raises(ValueError, match=r"`radii` must be non-negative and finite, got nan\."):
        certified_accuracy([0.5], [True], [np.nan])
    with pytest.raises(ValueError, match=r"`resamples` must be at least 1, got 0\."):
        average_certified_radius([0.5, 0.6], [True, True], resamples=0)
    with pytest.raises(ValueError, match=r"`images` must be at least 1, got 0\."):
        expected_wrong_certificates(0, 0.001)
    with pytest.raises(ValueError, match=r"`radius` must have shape \(1,\), got \(2,\)\."):
        certify_family([[9, 1]], [0], [0.1, 0.2], sigma=1.0)
    with pytest.raises(ValueError, match=r"`counts` must have shape \(M, C\), got \(2,\)\."):
        certify_family([9, 1], 0, 0.1, sigma=1.0)
