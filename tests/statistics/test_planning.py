import math
import re

import numpy as np
import pytest
from scipy import stats

from tcertify.certificates import certify_counts
from tcertify.statistics import check_useful, largest_radius, smallest_useful_n

METHODS = ["joint", "t-certify", "certify"]


def test_the_largest_radius_of_the_usual_run():
    exact = stats.norm.isf(-math.expm1(math.log(1e-3) / 1e5))
    for method in METHODS:
        found = largest_radius(100_000, 0.001, 1.0, method=method)
        assert exact - 0.001 < found <= exact
        quarter = largest_radius(100_000, 0.001, 0.25, method=method)
        assert quarter == pytest.approx(found / 4, rel=1e-12)
    assert largest_radius(100_000, 0.001, 1.0, method="certify") == pytest.approx(3.8115, abs=5e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [10, 11, 50, 5000])
def test_no_outcome_of_any_method_exceeds_the_largest_radius(n, method):
    k_a = np.arange(max(0, n - 40), n + 1)
    counts = np.stack([k_a, np.zeros_like(k_a)], axis=-1)
    found = certify_counts(
        counts, np.zeros_like(k_a), sigma=1.0, alpha=0.001, method=method, invalid=n - k_a
    ).radius
    assert found.max() == largest_radius(n, 0.001, 1.0, method=method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("alpha", [0.3, 0.05, 0.01, 0.001, 0.0001, 1e-6])
def test_below_the_smallest_useful_n_unanimous_votes_abstain_and_at_it_they_certify(alpha, method):
    n = smallest_useful_n(alpha, method=method)
    assert alpha ** (1 / n) > 0.5 >= alpha ** (1 / (n - 1)) - 1e-12
    radii = [
        certify_counts([[m, 0]], [0], sigma=1.0, alpha=alpha, method=method).radius[0]
        for m in (n - 1, n)
    ]
    assert radii[0] == 0 < radii[1]


def test_ten_samples_at_a_thousandth_certify_three_thousandths_of_sigma_at_most():
    assert smallest_useful_n(0.001) == 10
    assert 0.0029 < largest_radius(10, 0.001, 1.0, method="certify") < 0.0030
    assert 0.0028 < largest_radius(10, 0.001, 1.0) < 0.0030
    check_useful(10, 0.001)


@pytest.mark.parametrize("method", METHODS)
def test_an_alpha_of_a_power_of_two_is_not_enough_for_its_exponent(method):
    assert smallest_useful_n(2.0**-10, method=method) == 11
    assert largest_radius(10, 2.0**-10, 1.0, method=method) == 0


def test_the_joint_bound_may_need_one_vote_more():
    alpha = 2.0**-10 * 1.0005
    assert smallest_useful_n(alpha, method="certify") == 10
    assert smallest_useful_n(alpha, method="joint") == 11
    assert certify_counts([10, 0], 0, sigma=1.0, alpha=alpha).radius == 0
    check_useful(10, alpha, method="certify")
    with pytest.raises(ValueError, match="the smallest useful n is 11"):
        check_useful(10, alpha)


def test_a_run_that_can_never_certify_is_refused_with_the_smallest_useful_n():
    message = (
        "n = 9 samples can never certify anything at alpha = 0.001, even if all votes agree: "
        "the smallest useful n is 10."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        check_useful(9, 0.001)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0.1), "`n` must be at least 1, got 0."),
        ((10**13, 0.1), "`n` must be at most 1000000000000, got 10000000000000."),
        ((10, 1.0), "`alpha` must be in (0, 1), got 1.0."),
    ],
)
def test_misuse_is_named(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_useful(*arguments)
    with pytest.raises(ValueError, match=re.escape(message)):
        largest_radius(*arguments, 1.0)
    with pytest.raises(ValueError, match="`method` must be one of"):
        smallest_useful_n(0.1, method="basic")
