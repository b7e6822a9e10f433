import math
import re

import numpy as np
import pytest
from scipy import stats

from tcertify.certificates import certify_counts
from tcertify.statistics import planning
from tcertify.statistics.planning import (
    check_useful,
    largest_radius,
    power,
    samples_needed,
    smallest_useful_n,
)

METHODS = ["joint", "t-certify", "certify"]


def power_by_enumeration(n, p_a, p_b, radius, *, sigma, alpha, method):
    """The mass of all (k_a, k_b) whose certificate reaches the radius."""
    k_a, k_b = (k.ravel() for k in np.indices((n + 1, n + 1)))
    k_a, k_b = k_a[k_a + k_b <= n], k_b[k_a + k_b <= n]
    found = certify_counts(
        np.stack([k_a, k_b], axis=-1),
        np.zeros_like(k_a),
        sigma=sigma,
        alpha=alpha,
        method=method,
        invalid=n - k_a - k_b,
    ).radius
    outcomes = np.stack([k_a, k_b, n - k_a - k_b], axis=-1)
    mass = stats.multinomial.pmf(outcomes, n, [p_a, p_b, max(0.0, 1 - p_a - p_b)])
    return mass[(found > 0) & (found >= radius)].sum()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("n", "p_a", "p_b", "radius", "alpha"),
    [
        (40, 0.8, 0.1, 0.3, 0.01),
        (60, 0.6, 0.25, 0.0, 0.05),
        (60, 0.95, 0.05, 0.4, 0.001),
        (30, 1.0, 0.0, 0.5, 0.001),
        (30, 0.2, 0.7, 0.1, 0.05),
        (8, 0.9, 0.0, 0.1, 0.001),
    ],
)
def test_power_is_the_mass_of_all_outcomes_that_certify(n, p_a, p_b, radius, alpha, method):
    expected = power_by_enumeration(n, p_a, p_b, radius, sigma=0.5, alpha=alpha, method=method)
    found = power(n, p_a, p_b, radius, sigma=0.5, alpha=alpha, method=method)
    assert found == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("method", ["joint", "t-certify"])
@pytest.mark.parametrize("case", [(3000, 0.6, 0.05, 0.43), (2000, 0.6, 0.3, 0.155)])
def test_the_interpolated_edge_moves_the_power_by_less_than_a_thousandth(case, method, monkeypatch):
    short = power(*case, sigma=0.5, method=method)
    monkeypatch.setattr(planning, "_FEW_COLUMNS", math.inf)
    assert short == pytest.approx(power(*case, sigma=0.5, method=method), abs=1e-3)
    assert 0.05 < short < 0.99


def test_joint_needs_the_fewest_samples_where_there_is_a_third_class():
    needed = [samples_needed(0.9, 0.01, 0.5, sigma=0.5, method=method) for method in METHODS]
    assert needed == sorted(needed)
    assert needed[0] < needed[2] / 2


@pytest.mark.parametrize("case", [(0.9, 0.1, 0.5), (0.99, 0.005, 0.9), (0.7, 0.3, 0.0)])
def test_certify_gets_the_smallest_n_that_has_the_power(case):
    found = samples_needed(*case, sigma=0.5, beta=0.1, method="certify")
    have = [
        power(n, *case, sigma=0.5, method="certify") >= 0.9
        for n in range(max(1, found - 50), found + 1)
    ]
    assert have == [False] * (len(have) - 1) + [True]


@pytest.mark.parametrize("method", ["joint", "t-certify"])
def test_the_n_that_is_named_has_the_power(method):
    n = samples_needed(0.9, 0.02, 0.5, sigma=0.5, beta=0.2, method=method)
    assert power(n, 0.9, 0.02, 0.5, sigma=0.5, method=method) >= 0.8
    assert power(int(0.9 * n), 0.9, 0.02, 0.5, sigma=0.5, method=method) < 0.8


@pytest.mark.parametrize("method", METHODS)
def test_a_radius_above_the_true_one_needs_no_finite_n(method):
    assert samples_needed(0.9, 0.1, 0.7, sigma=0.5, method=method, maximum=2000) is None
    # near enough to the truth that a thousand are too few
    assert samples_needed(0.9, 0.1, 0.6, sigma=0.5, method=method, maximum=1000) is None


def test_the_largest_radius_of_the_usual_run():
    assert largest_radius(100_000, 0.001, 1.0) == pytest.approx(3.8115, abs=5e-5)
    assert largest_radius(100_000, 0.001, 0.25) == pytest.approx(3.8115 / 4, abs=2e-5)
    assert largest_radius(100_000, 0.001, 1.0) <= stats.norm.isf(-math.expm1(math.log(1e-3) / 1e5))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [10, 11, 50, 5000])
def test_no_outcome_of_any_method_exceeds_the_largest_radius(n, method):
    k_a = np.arange(max(0, n - 40), n + 1)
    counts = np.stack([k_a, np.zeros_like(k_a)], axis=-1)
    found = certify_counts(
        counts, np.zeros_like(k_a), sigma=1.0, alpha=0.001, method=method, invalid=n - k_a
    ).radius
    assert found.max() <= largest_radius(n, 0.001, 1.0) * (1 + 1e-12)
    assert found.max() == pytest.approx(largest_radius(n, 0.001, 1.0), abs=1e-3)


@pytest.mark.parametrize("method", ["t-certify", "certify"])
@pytest.mark.parametrize("alpha", [0.3, 0.05, 0.01, 0.001, 0.0001, 1e-6])
def test_below_the_smallest_useful_n_unanimous_votes_abstain_and_at_it_they_certify(alpha, method):
    n = smallest_useful_n(alpha)
    assert alpha ** (1 / n) > 0.5 >= alpha ** (1 / (n - 1)) - 1e-12
    radii = [
        certify_counts([[m, 0]], [0], sigma=1.0, alpha=alpha, method=method).radius[0]
        for m in (n - 1, n)
    ]
    assert radii[0] == 0 < radii[1]


def test_ten_samples_at_a_thousandth_certify_three_thousandths_of_sigma_at_most():
    assert smallest_useful_n(0.001) == 10
    assert 0.0029 < largest_radius(10, 0.001, 1.0) < 0.0030
    check_useful(10, 0.001)


def test_an_alpha_of_a_power_of_two_is_not_enough_for_its_exponent():
    assert smallest_useful_n(2.0**-10) == 11
    assert largest_radius(10, 2.0**-10, 1.0) == 0


def test_a_run_that_can_never_certify_is_refused_with_the_smallest_useful_n():
    message = (
        "n = 9 samples can never certify anything at alpha = 0.001, even if all votes agree: "
        "the smallest useful n is 10."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        check_useful(9, 0.001)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p_a": 1.2}, "`p_a` must be in [0, 1], got 1.2."),
        ({"p_b": math.nan}, "`p_b` must be in [0, 1], got nan."),
        ({"p_b": 0.2}, "`p_a` + `p_b` must be at most 1, got 0.9 + 0.2."),
        ({"radius": -1}, "`radius` must be non-negative and finite, got -1."),
        ({"radius": math.inf}, "`radius` must be non-negative and finite, got inf."),
        ({"sigma": 0}, "`sigma` must be positive and finite, got 0.0."),
        ({"alpha": 1}, "`alpha` must be in (0, 1), got 1.0."),
        ({"beta": 0}, "`beta` must be in (0, 1), got 0.0."),
        ({"maximum": 0}, "`maximum` must be at least 1, got 0."),
        ({"method": "basic"}, "`method` must be one of"),
    ],
)
def test_misuse_is_named(change, message):
    good = {"p_a": 0.9, "p_b": 0.05, "radius": 0.5, "sigma": 0.5}
    with pytest.raises(ValueError, match=re.escape(message)):
        samples_needed(**(good | change))
