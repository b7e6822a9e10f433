import math
import re

import numpy as np
import pytest
from scipy import stats

from tcertify.certificates import certify_counts
from tcertify.statistics import power, sample_size, samples_needed

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
        (150, 0.54, 0.06, 0.2, 0.01),
    ],
)
def test_power_is_the_mass_of_all_outcomes_that_certify(n, p_a, p_b, radius, alpha, method):
    expected = power_by_enumeration(n, p_a, p_b, radius, sigma=0.5, alpha=alpha, method=method)
    found = power(n, p_a, p_b, radius, sigma=0.5, alpha=alpha, method=method)
    assert found == pytest.approx(expected, abs=1e-8)


def test_power_is_exact_where_one_count_of_the_edge_matters():
    assert power(1000, 0.45, 0.3, 0.05, sigma=0.5) == pytest.approx(0.35867, abs=5e-6)


@pytest.mark.parametrize("method", ["joint", "t-certify"])
@pytest.mark.parametrize("case", [(3000, 0.6, 0.05, 0.43), (2000, 0.6, 0.3, 0.155)])
def test_an_interpolated_edge_moves_the_power_by_less_than_is_said(case, method, monkeypatch):
    exact = power(*case, sigma=0.5, method=method)
    monkeypatch.setattr(sample_size, "_FEW_COLUMNS", 0)
    n, p_a, p_b, _ = case
    said = 0.4 / math.sqrt(n * p_b * (1 - p_b / (1 - p_a)))
    assert abs(power(*case, sigma=0.5, method=method) - exact) < said
    assert 0.05 < exact < 0.99


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


def test_certify_gets_it_where_power_goes_up_and_down_with_the_failures():
    p_a = 0.636904854536227
    case = (p_a, 1 - p_a, 0.1)
    options = {"sigma": 1.0, "alpha": 0.05, "method": "certify"}
    assert samples_needed(*case, beta=0.5, **options) == 73
    assert power(73, *case, **options) >= 0.5
    assert max(power(n, *case, **options) for n in range(1, 73)) < 0.5


@pytest.mark.parametrize("beta", [0.5, 0.2, 0.05])
def test_no_smaller_n_has_the_power_of_certify(beta):
    rng = np.random.default_rng(0)
    for p_a in rng.uniform(0.6, 0.95, 10):
        options = {"sigma": 1.0, "alpha": 0.05, "method": "certify"}
        radius = rng.uniform(0, 0.7) * stats.norm.ppf(p_a)
        found = samples_needed(p_a, 1 - p_a, radius, beta=beta, maximum=400, **options)
        n = np.arange(1, found or 401)
        # CERTIFY certifies with at most so many failures; one number for each n
        q = stats.norm.sf(radius)
        most = stats.binom.ppf(0.05, n, q)
        most -= stats.binom.cdf(most, n, q) > 0.05
        assert stats.binom.cdf(most, n, 1 - p_a).max() < 1 - beta
        if found:
            assert power(found, p_a, 1 - p_a, radius, **options) >= 1 - beta


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p_a": 1.2}, "`p_a` must be in [0, 1], got 1.2."),
        ({"p_b": math.nan}, "`p_b` must be in [0, 1], got nan."),
        ({"p_b": 0.2}, "`p_a` + `p_b` must be at most 1, got 0.9 + 0.2."),
        ({"radius": -1}, "`radius` must be at least 0 and finite, got -1.0."),
        ({"radius": math.inf}, "`radius` must be at least 0 and finite, got inf."),
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
