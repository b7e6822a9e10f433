import re

import numpy as np
import pytest
from scipy import stats

from tcertify.bounds import clopper_pearson_lower, clopper_pearson_upper
from tcertify.statistics.curves import (
    average_certified_radius,
    certified_accuracy,
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


@pytest.mark.parametrize("function", [certified_accuracy, p_a_distribution])
@pytest.mark.parametrize(
    ("values", "correct", "message"),
    [
        ([0.1, np.nan], [True, True], "got nan."),
        ([0.1, -0.5], [True, True], "got -0.5."),
        ([0.1, 0.2], [1, 0], "`correct` must be bool, got int64."),
        ([0.1, 0.2], [True], "equally long and not empty, got shapes (2,) and (1,)."),
        ([], np.array([], bool), "equally long and not empty, got shapes (0,) and (0,)."),
        ([[0.1]], [[True]], "must be 1-d, equally long and not empty"),
        (["a"], [True], "must be numbers"),
    ],
)
def test_bad_arrays_are_named(function, values, correct, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        function(values, correct, [0.5])


def test_other_misuse_is_named():
    with pytest.raises(ValueError, match=r"`radius` must be at least 0 and finite, got inf\."):
        certified_accuracy([np.inf], [True], [0.5])
    with pytest.raises(ValueError, match=r"`p_a_lower` must be in \[0, 1\], got 1\.5\."):
        p_a_distribution([1.5], [True], [0.5])
    with pytest.raises(ValueError, match=r"`alpha` must be in \(0, 1\), got 95\.0\."):
        certified_accuracy([0.5], [True], [0.5], alpha=95)
    with pytest.raises(ValueError, match=r"`radii` must be at least 0 and finite, got nan\."):
        certified_accuracy([0.5], [True], [np.nan])
    with pytest.raises(ValueError, match=r"`resamples` must be at least 1, got 0\."):
        average_certified_radius([0.5, 0.6], [True, True], resamples=0)
