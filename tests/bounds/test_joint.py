import math
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from tcertify.bounds import _joint_kernel as kernel
from tcertify.bounds import (
    clopper_pearson_lower,
    clopper_pearson_lower_complement,
    clopper_pearson_upper,
    joint_lower,
)
from tests.reference import outcomes, trinomial, worst_failure

JIT = not numba.config.DISABLE_JIT
ALPHAS = (0.5, 0.1, 0.05, 0.01, 1e-3, 1e-5)


def certify(k_a, n, alpha):
    return -2 * ndtri(clopper_pearson_lower_complement(k_a, n, alpha))


def t_certify(k_a, k_b, n, alpha):
    """The published grid with the one-class bound of p_B; -inf where it abstains."""
    share = np.arange(1, 10).reshape(9, *[1] * np.ndim(k_a)) / 10
    q_a = clopper_pearson_lower_complement(k_a, n, share * alpha)
    p_b = clopper_pearson_upper(k_b, n, (1 - share) * alpha)
    t = np.where(q_a < 0.5, -ndtri(q_a) - ndtri(np.minimum(p_b, q_a)), -np.inf).max(axis=0)
    alone = certify(k_a, n, alpha)
    return np.maximum(t, np.where(alone > 0, alone, -np.inf))


def limit_of_slack(p_a, p_b, n, alpha):
    g_a, g_b = (np.sqrt(2 * np.pi) * np.exp(ndtri(p) ** 2 / 2) for p in (p_a, p_b))
    variance = g_a**2 * p_a * (1 - p_a) + g_b**2 * p_b * (1 - p_b) + 2 * g_a * g_b * p_a * p_b
    return -ndtri(alpha) * np.sqrt(variance / n)


# --- validity -------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("n", [*range(1, 26), 40, 60] if JIT else [1, 5, 8])
def test_no_three_probabilities_make_it_fail_more_often_than_alpha(n, alpha):
    # the smallest bound above it that grows with k_a and falls with k_b does not either
    worst = worst_failure(joint_lower(*outcomes(n), n, alpha), n)
    assert 0.998 * alpha <= worst.met
    assert worst.bound <= alpha


def test_the_enumeration_finds_a_bound_that_spends_alpha_twice():
    n, alpha = 20, 0.01
    worst = worst_failure(joint_lower(*outcomes(n), n, 2 * alpha), n)
    assert worst.met > 1.99 * alpha


def test_the_enumeration_bounds_what_a_fine_grid_finds():
    n, alpha = 12, 0.05
    bound = joint_lower(*outcomes(n), n, alpha)
    worst = worst_failure(bound, n)
    counts = np.stack([*outcomes(n), n - sum(outcomes(n))], axis=-1)
    for z_a in np.linspace(-2, 2, 21):
        for t in np.linspace(2 * z_a, 2 * z_a + 3, 40):
            p_a, p_c = ndtr(z_a), ndtr(z_a - t)
            mass = trinomial(counts, [p_a, p_c, max(0.0, 1 - p_a - p_c)])
            assert mass[bound > t].sum() <= worst.bound


# --- how tight it is ------------------------------------------------------------------------


@pytest.mark.skipif(not JIT, reason="large n is for the compiled kernel")
@pytest.mark.parametrize(
    ("n", "p_a", "p_b"),
    [
        (10**5, 0.6, 0.3),
        (10**5, 0.5, 0.05),
        (10**5, 0.8, 0.1),
        (10**5, 0.4, 0.2),
        (10**5, 0.99, 0.005),
        (10**5, 0.7, 0.3),
        (10**4, 0.5, 0.05),
        (10**4, 0.2, 0.05),
        (10**4, 0.9, 0.1),
        (10**6, 0.45, 0.45),
    ],
)
@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 0.01])
def test_its_slack_is_the_asymptotic_limit_to_one_percent(n, p_a, p_b, alpha):
    k_a, k_b = round(n * p_a), round(n * p_b)
    slack = ndtri(p_a) - ndtri(p_b) - joint_lower(k_a, k_b, n, alpha)
    assert 0.98 < slack / limit_of_slack(p_a, p_b, n, alpha) < 1.01


def sweep(n):
    """Counts with few to many votes outside A, the competitor's share none to all of them."""
    outside = np.unique(np.r_[0:12, np.geomspace(1, n - n // 2, 14).astype(int)])
    outside = outside[outside < n - n // 4]
    share = np.r_[np.linspace(0, 1, 6), 0.002, 0.01, 0.03, 0.1]
    k_b = np.floor(share[:, None] * outside).astype(int)
    pairs = {
        (n - o, b + e) for row in k_b for o, b in zip(outside, row, strict=True) for e in (0, 1)
    }
    return np.array(sorted((a, b) for a, b in pairs if a + b <= n)).T


@pytest.mark.parametrize("alpha", [1e-8, 1e-5, 1e-3, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("n", [5, 20, 60, 200, 1000, 20_000, 100_000] if JIT else [6, 20])
def test_it_is_nowhere_below_t_certify_by_more_than_a_hair(n, alpha):
    k_a, k_b = sweep(n)
    ahead = joint_lower(k_a, k_b, n, alpha) - t_certify(k_a, k_b, n, alpha)
    assert ahead.min() > -0.002
    assert (ahead[(k_b >= 100) & (k_a + k_b < n)] > 0).all()


@pytest.mark.skipif(not JIT, reason="large n is for the compiled kernel")
def test_few_votes_for_the_rival_cost_nothing():
    # the ordering by Wald bounds loses 0.053 here
    assert joint_lower(19_900, 0, 20_000, 0.001) > t_certify(19_900, 0, 20_000, 0.001) + 0.1


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 0.05, 0.5])
@pytest.mark.parametrize("n", [10, 100, 1000, 100_000] if JIT else [10])
def test_two_classes_get_what_certify_gives(n, alpha):
    k_b = np.unique(np.r_[0:6, n // 10, n // 3, n // 2])
    exact = certify(n - k_b, n, alpha)
    bound = joint_lower(n - k_b, k_b, n, alpha)
    assert (bound <= exact).all()
    assert (bound > exact - 0.002)[exact > 0].all()


def test_below_one_half_it_still_certifies():
    assert joint_lower(400, 150, 1000, 0.001) > 0.2


def test_more_votes_for_a_rival_help_by_no_more_than_the_tolerance_of_the_search():
    for n, alpha in [(30, 0.01), (9, 0.3)]:
        bound = [joint_lower(n // 2, k_b, n, alpha) for k_b in range(n - n // 2 + 1)]
        assert (np.diff(bound) < 1e-3).all()


@pytest.mark.skipif(not JIT, reason="n of a hundred is for the compiled kernel")
def test_one_more_vote_for_a_can_lower_it():
    # what the documentation says of it; a rule that relies on the opposite is no exact rule
    before, after = joint_lower([130, 131], 2, 200, 0.001)
    assert before - after == pytest.approx(0.0119, abs=1e-3)


# --- edges ----------------------------------------------------------------------------------


def test_no_vote_for_a_supports_no_bound():
    assert joint_lower(0, 0, 10, 0.1) == -np.inf
    assert joint_lower(0, 10, 10, 0.1) == -np.inf


def test_an_alpha_that_n_cannot_reach_gives_a_bound_below_zero():
    bound = joint_lower(10, 0, 10, [1e-4, 1e-12, 1e-100])
    np.testing.assert_allclose(bound, certify(10, 10, np.array([1e-4, 1e-12, 1e-100])), atol=1e-3)
    assert joint_lower(10, 0, 10, 1e-300) < bound[-1]
    assert joint_lower(1, 0, 10, 1e-300) == -np.inf
    assert (bound < 0).all()


def test_alphas_above_one_half_are_served():
    bound = joint_lower(5, 3, 10, [0.5, 0.9, 0.999])
    assert (np.diff(bound) > 0).all()


@pytest.mark.skipif(not JIT, reason="large n is for the compiled kernel")
def test_a_billion_samples_are_served():
    n = 10**9
    slack = ndtri(0.6) - ndtri(0.3) - joint_lower(6 * n // 10, 3 * n // 10, n, 0.001)
    assert 0.99 < slack / limit_of_slack(0.6, 0.3, n, 0.001) < 1.01


# --- arrays ---------------------------------------------------------------------------------


def test_arguments_broadcast():
    bound = joint_lower([[8], [9]], [0, 1, 1], 10, [0.1, 0.1, 0.2])
    assert bound.shape == (2, 3)
    assert bound[1, 2] == joint_lower(9, 1, 10, 0.2)
    assert joint_lower([], 0, 10, 0.1).shape == (0,)
    assert np.ndim(joint_lower(8, 1, 10, 0.1)) == 0


def test_equal_rows_are_computed_once(monkeypatch):
    rows = []
    compute = kernel.joint_rows

    def count(*columns):
        rows.append(len(columns[0]))
        compute(*columns)

    monkeypatch.setattr(kernel, "joint_rows", count)
    bound = joint_lower([7, 9, 7, 9, 7, 7], [1, 0, 1, 0, 1, 1], 10, [0.1] * 5 + [0.2])
    assert sum(rows) == 3
    assert bound[0] == bound[2] == bound[4] < bound[5]
    assert bound[1] == bound[3]


def test_many_rows_in_parallel_equal_one_by_one():
    k_a, k_b = outcomes(8)
    together = joint_lower(k_a, k_b, 8, 0.05)
    alone = [joint_lower(a, b, 8, 0.05) for a, b in zip(k_a, k_b, strict=True)]
    np.testing.assert_array_equal(together, alone)


def test_threads_may_call_it():
    with ThreadPoolExecutor(4) as pool:
        bounds = list(pool.map(lambda _: joint_lower(9, 1, 12, 0.05), range(8)))
    assert len(set(bounds)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0, 10, 0.1), "`k_a` must be at least 0, got -1."),
        ((1, -2, 10, 0.1), "`k_b` must be at least 0, got -2."),
        ((1, 0, 0, 0.1), "`n` must be at least 1, got 0."),
        ((1, 0, 10**13, 0.1), "`n` must be at most 1000000000000, got 10000000000000."),
        ((1.5, 0, 10, 0.1), "`k_a` must be whole numbers, got 1.5."),
        ((1, math.nan, 10, 0.1), "`k_b` must be whole numbers, got nan."),
        ((1, 0, 10, 0.0), r"`alpha` must be in \(0, 1\), got 0.0."),
        ((1, 0, 10, math.nan), r"`alpha` must be in \(0, 1\), got nan."),
        (([3, 8], 3, 10, 0.1), r"`k_a` \+ `k_b` must be at most `n`, got 8 \+ 3 > 10."),
        (([1, 2], [1, 2, 3], 10, 0.1), "Shapes do not broadcast"),
    ],
)
def test_a_bad_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        joint_lower(*arguments)


# --- the parts of the compiled kernel ---------------------------------------------------------


@given(st.floats(-36, 36))
def test_its_quantile_inverts_the_normal_distribution(z):
    p = float(ndtr(z))
    if 1e-300 < p < 1:
        assert kernel._quantile(p) == pytest.approx(float(ndtri(p)), rel=1e-13, abs=1e-15)


@given(st.integers(1, 10**6), st.floats(0, 1), st.floats(1e-9, 1 - 1e-9))
def test_its_binomial_masses_are_right_to_twelve_digits(n, where, p):
    k = round(where * n)
    exact = binom.logpmf(k, n, p)
    if exact > -600:
        assert math.log(kernel._mass(k, n, p, 1 - p)) == pytest.approx(exact, rel=1e-9, abs=1e-9)


def test_masses_at_certainty_are_zero_or_one():
    assert [kernel._mass(k, 3, 0.0, 1.0) for k in (0, 1)] == [1, 0]
    assert [kernel._mass(k, 3, 1.0, 0.0) for k in (3, 2)] == [1, 0]


def exact_probability(columns, n, q, r):
    """The region's probability in rational numbers, for columns a = 0..n."""
    q, r = Fraction(q), Fraction(r)
    total = Fraction(0)
    for a, largest in enumerate(columns):
        m = n - a
        tail = sum(
            (math.comb(m, b) * r**b * (1 - r) ** (m - b) for b in range(largest + 1)), Fraction(0)
        )
        total += math.comb(n, a) * (1 - q) ** a * q**m * tail
    return total


def test_a_region_s_probability_is_bounded_where_a_rate_is_subnormal():
    for rate in (2.225073858507e-311, 5e-324, 1e-290):
        bound = kernel._probability((np.array([0, 0, 0]), 0, 2, 60.0), 0.5, rate)
        assert 1.0 <= bound <= 1.0 + 2e-9


@given(st.data())
def test_the_region_s_probability_is_bounded_from_above_and_closely(data):
    n = data.draw(st.integers(1, 16))
    steps = data.draw(st.lists(st.integers(0, 4), min_size=n + 1, max_size=n + 1))
    columns = np.minimum(np.cumsum(steps) - data.draw(st.integers(1, 6)), n - np.arange(n + 1))
    columns = np.maximum(columns, -1)
    q = data.draw(st.floats(1e-12, 1 - 1e-12))
    r = data.draw(st.one_of(st.just(0.0), st.floats(1e-200, 1e-3), st.floats(0, 1 - 1e-9)))
    exact = exact_probability(columns.tolist(), n, q, r)
    for x in (60.0, 25.0):
        bound = kernel._probability((columns, 0, n, x), q, r)
        assert exact <= bound
        assert bound <= float(exact) * (1 + 2e-9) + 30 * math.exp(-x)


@pytest.mark.skipif(not JIT, reason="large n is for the compiled kernel")
@pytest.mark.parametrize(("q", "r"), [(0.4, 0.75), (0.3, 1 - 1e-12), (0.4, 1e-4), (1e-3, 0.5)])
def test_a_large_region_s_probability_agrees_with_scipy(q, r):
    n, x = 10**5, 30.0
    a = np.arange(n + 1)
    middle = round(n * (1 - q))
    columns = np.clip(np.floor(n * q * r + 0.4 * (a - middle - 300 * q)), -1, n - a).astype(int)
    exact = np.sum(binom.pmf(n - a, n, q) * binom.cdf(columns, n - a, r))
    assert kernel._probability((columns, 0, n, x), q, r) == pytest.approx(
        exact, rel=2e-8, abs=1e-11
    )


@given(
    st.integers(2, 60 if JIT else 12),
    st.floats(-2, 5),
    st.floats(0.02, 2),
    st.floats(1e-4, 1),
    st.floats(0, 1),
)
def test_inside_a_cell_the_probability_stays_below_its_bound(n, t, back, width, share):
    high = min(t / 2 - back, 5.0)
    low = high - width
    x = 40.0
    k_a = max(1, round(n * ndtr(high)))
    k_b = int(share * (n - k_a))
    region = (kernel._columns(kernel._rank(k_a, k_b, n, 2.0), n, 2.0, 0, n), 0, n, x)
    ends = [kernel._at(region, z, z - t) for z in (low, high)]
    bound = max(ends) * math.exp(kernel._gap(n, t, low, high, x)) + 3 * math.exp(-x)
    for z in np.linspace(low, high, 9):
        assert kernel._at(region, z, z - t) <= bound * (1 + 1e-8)


@given(st.floats(-4, 4), st.floats(1e-9, 1))
def test_what_is_left_for_other_classes_keeps_its_digits(t, width):
    z_a = t / 2 - width / 2
    exact = 0.0
    points, weights = np.polynomial.legendre.leggauss(20)
    low, high = z_a - t, -z_a
    exact = (
        (high - low) / 2 * weights @ np.exp(-(((low + high + (high - low) * points) / 2) ** 2) / 2)
    )
    assert kernel._rest(z_a, t) == pytest.approx(exact / math.sqrt(2 * math.pi), rel=1e-9)


@pytest.mark.parametrize("k", [1, 30, 99, 100])
def test_the_plausible_p_a_reach_beyond_clopper_pearson(k):
    n, beta = 100, 1e-6
    x = math.log(2 / beta)
    low, high = (kernel._plausible(k, n, x, side) for side in (-1.0, 1.0))
    assert low < ndtri(clopper_pearson_lower(k, n, beta / 2))
    assert high > ndtri(clopper_pearson_upper(k, n, beta / 2)) or k == n


def test_the_region_holds_the_observed_outcome_and_is_an_upper_set():
    for n, z in [(12, 0.0), (12, 2.3), (6, 5.0), (30, 5.0)]:
        for k_a, k_b in zip(*outcomes(n), strict=True):
            if k_a == 0:
                continue
            rank = kernel._rank(k_a, k_b, n, z)
            columns = kernel._columns(rank - 1e-9, n, z, 0, n)
            inner = columns < n - np.arange(n + 1)
            assert columns[k_a] >= k_b
            assert (np.diff(columns)[inner[1:]] >= 0).all()


@given(st.floats(0, 1), st.integers(1, 500), st.floats(0, 7))
def test_the_limit_of_a_rate_and_of_a_count_are_inverse(share, m, z):
    k = share * (m - 1)
    rate = kernel._upper_rate(k, m, z)
    if rate < 1:
        assert kernel._lower_count(rate, m, z) == pytest.approx(k, abs=1e-9 * m)
    counts = [kernel._lower_count(rate, m, z) for rate in np.linspace(0, 1, 9)]
    assert (np.diff(counts) >= 0).all()
    assert counts[-1] == m


def test_masses_too_small_for_a_float_are_added_not_lost():
    n = 1000
    columns = n - np.arange(n + 1)  # all outcomes
    assert 1 <= kernel._probability((columns, 0, n, 700.0), 0.5, 0.5) < 1 + 1e-8


def test_a_rival_s_probability_below_the_smallest_float_counts_as_zero():
    region = (np.array([-1, -1, -1, 0, 1, 0]), 0, 5, 40.0)
    at_least_three = binom.sf(2, 5, ndtr(-1.0))
    assert kernel._at(region, -1.0, -math.inf) == pytest.approx(at_least_three, rel=1e-8)
    assert kernel._excess(region, 45.0, -6.0, -1.0, 1.01 * at_least_three) == 0
    assert kernel._excess(region, 45.0, -6.0, -1.0, 0.99 * at_least_three) > 0


def test_a_bound_that_no_halving_brings_down_is_refused():
    # with tails this heavy the bound of a cell stays above the level
    region = (np.array([-1, -1, 0]), 0, 2, -math.log(0.1))
    assert kernel._excess(region, 1.0, -3.0, -2.0, 0.25) > 0.25
