import re

import numpy as np
import pytest
from scipy import stats

from tcertify.bounds import clopper_pearson_lower
from tcertify.certificates import certify_counts
from tcertify.statistics.populations import (
    population_sentence,
    robust_count_lower,
    robust_share_lower,
)

IMAGES, ALPHA, DELTA = 40, 0.1, 0.05


def test_the_share_covers_the_population_whatever_the_share_is():
    # The bound grows with the hits, and hits are likeliest where each image that is not robust is
    # certified with probability alpha. So failures peak just below a value of the bound, and these
    # are finitely many.
    hits = np.arange(IMAGES + 1)
    lower = robust_share_lower(hits, IMAGES, alpha=ALPHA, delta=DELTA)
    assert (np.diff(lower) >= 0).all()
    positive = lower > 0
    hit = lower[positive] + (1 - lower[positive]) * ALPHA
    failure = stats.binom.sf(hits[positive] - 1, IMAGES, hit)
    assert failure.max() <= DELTA * (1 + 1e-9)
    assert failure.max() > 0.999 * DELTA


def test_the_interval_of_certified_accuracy_alone_does_not_cover_the_robust_share():
    hits, share = np.arange(401), 0.3
    mass = stats.binom.pmf(hits, 400, share + (1 - share) * ALPHA)
    naive = mass[clopper_pearson_lower(hits, 400, DELTA) > share].sum()
    ours = mass[robust_share_lower(hits, 400, alpha=ALPHA, delta=DELTA) > share].sum()
    assert naive > 10 * DELTA
    assert ours <= DELTA


@pytest.mark.parametrize("method", ["joint", "certify", "t-certify"])
def test_the_share_covers_with_real_certificates_of_images_on_the_edge(method):
    # A share of the images is certain; the others' true radius is the one that is asked for.
    n, radius, share = 30, 0.4, 0.25
    k = np.arange(n + 1)
    votes, zeros = np.stack([k, n - k], axis=-1), np.zeros_like(k)
    found = certify_counts(votes, zeros, sigma=1.0, alpha=ALPHA, method=method).radius
    wrong = stats.binom.pmf(k, n, stats.norm.cdf(radius))[found >= radius].sum()
    mass = stats.binom.pmf(np.arange(IMAGES + 1), IMAGES, share + (1 - share) * wrong)
    lower = robust_share_lower(np.arange(IMAGES + 1), IMAGES, alpha=ALPHA, delta=DELTA)
    assert found[-1] >= radius
    assert 0 < mass[lower > share].sum() <= DELTA


def test_the_count_covers_every_number_of_robust_images():
    # Hits are at most the robust images and the wrong certificates of the others.
    hits = np.arange(IMAGES + 1)
    lower = robust_count_lower(hits, IMAGES, alpha=ALPHA, delta=DELTA)
    assert (np.diff(lower) >= 0).all()
    failures = []
    for robust in range(IMAGES + 1):
        wrong = np.arange(IMAGES - robust + 1)
        mass = stats.binom.pmf(wrong, IMAGES - robust, ALPHA)
        failures.append(mass[lower[robust + wrong] > robust].sum())
    assert max(failures) <= DELTA * (1 + 1e-9)
    assert max(failures) > 0.5 * DELTA


def test_the_count_is_the_least_that_is_plausible():
    for hits in (0, 1, 17, 40):
        found = robust_count_lower(hits, IMAGES, alpha=ALPHA, delta=DELTA)
        plausible = [
            robust
            for robust in range(hits + 1)
            if stats.binom.sf(hits - robust - 1, IMAGES - robust, ALPHA) > DELTA
        ]
        assert found == min(plausible)


def test_few_wrong_certificates_cost_little():
    assert robust_share_lower(0, 500, alpha=0.001) == 0
    assert robust_share_lower(500, 500, alpha=0.001) == pytest.approx(0.05 ** (1 / 500), abs=1e-5)
    assert robust_count_lower([0, 1, 500], 500, alpha=0.001).tolist() == [0, 0, 500]


def test_the_sentence_rounds_down():
    share = robust_share_lower(7, 10, alpha=0.001, delta=0.1)
    assert share == pytest.approx(0.44772, abs=1e-5)
    assert population_sentence(0.25, 7, 10, alpha=0.001, delta=0.1) == (
        "With 90 % confidence, the smoothed classifier is right and robust at radius 0.25 on at"
        " least 44.7 % of the population that the 10 images were drawn from: 7 of them were"
        " certified, each wrongly with probability at most 0.001."
    )


@pytest.mark.parametrize("function", [robust_share_lower, robust_count_lower])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hits": [3, 11]}, "`hits` must be at most 10, got 11."),
        ({"hits": -1}, "`hits` must be at least 0, got -1."),
        ({"images": 0}, "`images` must be at least 1, got 0."),
        ({"alpha": 1.0}, "`alpha` must be in (0, 1), got 1.0."),
        ({"delta": 0.0}, "`delta` must be in (0, 1), got 0.0."),
    ],
)
def test_misuse_is_named(function, change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        function(**({"hits": 5, "images": 10, "alpha": 0.001} | change))


def test_a_negative_radius_has_no_sentence():
    with pytest.raises(ValueError, match=r"^`radius` must be at least 0 and finite, got -1\.0\.$"):
        population_sentence(-1.0, 5, 10, alpha=0.001)
