import re
from pathlib import Path

import numpy as np
import pytest
from flint import arb
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri

from tcertify.bounds import (
    clopper_pearson_lower,
    clopper_pearson_lower_complement,
    clopper_pearson_upper,
)
from tests.intervals import binomial_masses, binomial_tail, binomial_tail_sum

# (n, k, alpha, lower rounded down, upper rounded up), from 300-bit interval arithmetic.
KNOWN = [
    (10, 5, 0.025, 0.18708602844739852, 0.8129139715526015),
    (100, 99, 0.001, 0.9113731112960424, 0.9999899950467142),
    (1000, 990, 0.001, 0.9760361871553113, 0.9970304990695041),
    (10**5, 99000, 0.001, 0.9889893403774747, 0.9909445314129199),
    (10**5, 1, 0.0005, 5.001250404316726e-09, 9.99822763570542e-05),
    (10**6, 1000, 0.001, 0.0009051632889687517, 0.001101570954376869),
    (10**7, 1000, 1e-8, 8.325799689345169e-05, 0.00011888262432434758),
]


@pytest.mark.parametrize(("n", "k", "alpha", "lower", "upper"), KNOWN)
def test_the_bounds_are_just_outside_the_known_values(n, k, alpha, lower, upper):
    assert lower * (1 - 1e-11) <= clopper_pearson_lower(k, n, alpha) <= lower
    assert upper <= clopper_pearson_upper(k, n, alpha) <= upper * (1 + 1e-11)
    assert clopper_pearson_lower_complement(n - k, n, alpha) == clopper_pearson_upper(k, n, alpha)


@pytest.mark.parametrize("n", [1, 2, 10, 10**5, 10**9, 2**53])
def test_none_and_all_have_their_closed_forms(n):
    alpha = np.array([1e-12, 1e-3, 0.5, 0.9])
    rest = -np.expm1(np.log(alpha) / n)
    np.testing.assert_array_equal(clopper_pearson_lower(0, n, alpha), 0)
    np.testing.assert_array_equal(clopper_pearson_upper(n, n, alpha), 1)
    np.testing.assert_allclose(clopper_pearson_upper(0, n, alpha), rest, rtol=1e-14)
    np.testing.assert_allclose(clopper_pearson_lower(n, n, alpha), alpha ** (1 / n), rtol=2e-13)
    np.testing.assert_allclose(clopper_pearson_lower_complement(n, n, alpha), rest, rtol=1e-14)


@pytest.mark.parametrize("bound", [clopper_pearson_lower, clopper_pearson_upper])
def test_arguments_broadcast(bound):
    k, n, alpha = np.arange(4).reshape(4, 1, 1), np.array([[5], [8]]), np.array([0.1, 0.2, 0.3])
    table = bound(k, n, alpha)
    assert table.shape == (4, 2, 3)
    assert table[3, 1, 2] == bound(3, 8, 0.3)
    assert isinstance(bound(3, 8, 0.3), np.float64)
    assert bound(np.zeros(0, dtype=int), 8, 0.3).shape == (0,)


@pytest.mark.parametrize("bound", [clopper_pearson_lower, clopper_pearson_upper])
@pytest.mark.parametrize(
    ("k", "n", "alpha", "message"),
    [
        (1, 10, 0.0, "`alpha` must be in (0, 1), got 0.0."),
        (1, 10, 1.0, "`alpha` must be in (0, 1), got 1.0."),
        (1, 10, [0.1, np.nan], "`alpha` must be in (0, 1), got nan."),
        (1, 0, 0.1, "`n` must be at least 1, got 0."),
        (1, 2**53 + 1, 0.1, f"`n` must be at most {2**53}, got {2**53 + 1}."),
        (-1, 10, 0.1, "`k` must be at least 0, got -1."),
        (1.5, 10, 0.1, "`k` must be whole numbers, got 1.5."),
        ([3, 11], 10, 0.1, "`k` must be at most `n`, got 11 of 10."),
        ([1, 2], [3, 4, 5], 0.1, "Shapes do not broadcast: `k` (2,), `n` (3,), `alpha` ()."),
        (True, 10, 0.1, "`k` must be numbers, got True."),
    ],
)
def test_bad_arguments_are_named(bound, k, n, alpha, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        bound(k, n, alpha)


@pytest.fixture(scope="module")
def exact():
    """Bounds from 300-bit interval arithmetic, by tests/data/make_clopper_pearson.py."""
    return np.load(Path(__file__).parents[1] / "data" / "clopper_pearson.npz")


def test_no_bound_of_the_stored_table_is_on_the_unsound_side(exact):
    k, n, alpha, lower, upper = (exact[name] for name in ("k", "n", "alpha", "lower", "upper"))
    assert 2 * k.size >= 20_000
    assert n.max() > 9e8
    low, high = clopper_pearson_lower(k, n, alpha), clopper_pearson_upper(n - k, n, alpha)
    assert np.isfinite(low).all()
    assert np.isfinite(high).all()
    assert not (low > lower).any()
    assert not (high < upper).any()
    assert not (clopper_pearson_lower_complement(k, n, alpha) < upper).any()


def test_the_bounds_of_the_stored_table_are_tight_up_to_a_million_samples(exact):
    usual = (exact["n"] <= 10**6) & (exact["alpha"] >= 1e-6) & (exact["alpha"] <= 0.5)
    k, n, alpha, lower, upper = (
        exact[name][usual] for name in ("k", "n", "alpha", "lower", "upper")
    )
    allowed = 1e-10 * np.minimum(lower, upper)  # upper is the other bound's 1 - p
    assert usual.sum() > 3_000
    assert (lower - clopper_pearson_lower(k, n, alpha) <= allowed + 4 * np.spacing(lower)).all()
    assert (clopper_pearson_upper(n - k, n, alpha) - upper <= allowed + 4 * np.spacing(upper)).all()


def test_coverage_at_n_1000_is_proved_for_every_p():
    # A lower bound that grows with k fails most often at p just below one of its values, and there
    # with probability P(Bin(n, p) >= k): n + 1 checks are all of them. Upper bounds mirror them.
    n, alpha = 1000, 0.001
    k = np.arange(n + 1)
    lower, upper = clopper_pearson_lower(k, n, alpha), clopper_pearson_upper(k, n, alpha)
    assert (np.diff(lower) > 0).all()
    assert (np.diff(upper) > 0).all()
    assert all(binomial_tail_sum(j, n, arb(lower[j])) <= arb(alpha) for j in range(1, n + 1))
    assert all(binomial_tail_sum(n - j, n, 1 - arb(upper[j])) <= arb(alpha) for j in range(n))


@pytest.mark.parametrize("alpha", [1e-12, 0.001, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("n", [2**33, 10**12, 2**53])
def test_counts_beyond_the_reach_of_scipy_stay_near_the_normal_approximation(n, alpha):
    k = np.array([10**7, n // 10, n // 2, n - n // 10, n - 10**7])
    p, z = k / n, -ndtri(alpha)
    deviation = np.sqrt(p * (1 - p) / n)
    # beyond the normal approximation: a term of order 1 / n, and the margin of about five counts
    allowed = (z * z + 7) / n
    lower, upper = clopper_pearson_lower(k, n, alpha), clopper_pearson_upper(k, n, alpha)
    assert (np.abs(lower - (p - z * deviation)) <= allowed).all()
    assert (np.abs(upper - (p + z * deviation)) <= allowed).all()


@pytest.mark.parametrize(("k", "n"), [(3 * 10**9, 2**33), (5 * 10**9, 2**33)])
def test_counts_beyond_the_reach_of_scipy_are_sound(k, n):
    for alpha in (1e-9, 0.001, 0.4):
        lower = clopper_pearson_lower(k, n, alpha)
        assert binomial_tail(k, n, arb(lower)) <= arb(alpha)
        assert binomial_tail(n - k, n, 1 - arb(clopper_pearson_upper(k, n, alpha))) <= arb(alpha)


def test_an_alpha_that_floats_barely_hold_supports_nothing():
    assert clopper_pearson_lower(50, 100, 1e-300) == 0
    assert clopper_pearson_upper(50, 100, 1e-300) == 1


sizes = st.integers(1, 10**9)
levels = st.floats(1e-12, 0.5)


@given(n=sizes, alpha=levels, data=st.data())
def test_the_bounds_grow_with_k_and_shrink_with_n(n, alpha, data):
    k = data.draw(st.integers(0, n - 1))
    for bound in (clopper_pearson_lower, clopper_pearson_upper):
        assert bound(k, n, alpha) < bound(k + 1, n, alpha)
        assert bound(k, n + 1, alpha) <= bound(k, n, alpha)


@given(n=sizes, alpha=levels, factor=st.floats(1e-6, 0.999999), data=st.data())
def test_a_smaller_alpha_widens_the_bounds(n, alpha, factor, data):
    k = data.draw(st.integers(0, n))
    assert clopper_pearson_lower(k, n, alpha * factor) <= clopper_pearson_lower(k, n, alpha)
    assert clopper_pearson_upper(k, n, alpha * factor) >= clopper_pearson_upper(k, n, alpha)


@given(n=sizes, alpha=levels, data=st.data())
def test_the_complement_is_the_upper_bound_of_the_failures(n, alpha, data):
    k = data.draw(st.integers(0, n))
    p, q = clopper_pearson_lower(k, n, alpha), clopper_pearson_lower_complement(k, n, alpha)
    assert abs(q - (1 - p)) <= 1e-9 * min(p, q) + 1e-15


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20, 40])
@pytest.mark.parametrize("alpha", [0.5, 0.1, 0.001, 1e-6])
def test_exact_failure_never_exceeds_alpha(n, alpha):
    k, p = np.arange(n + 1), np.append(np.linspace(0.0005, 0.9995, 997), [1e-9, 1 - 1e-9])[:, None]
    mass = binomial_masses(n, p)
    fails_low = clopper_pearson_lower(k, n, alpha) > p
    fails_high = clopper_pearson_upper(k, n, alpha) < p
    assert (mass * fails_low).sum(axis=1).max() <= alpha * (1 + 1e-9)
    assert (mass * fails_high).sum(axis=1).max() <= alpha * (1 + 1e-9)
