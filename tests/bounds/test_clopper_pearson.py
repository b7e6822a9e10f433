import re

import numpy as np
import pytest

from tcertify.bounds import (
    clopper_pearson_lower,
    clopper_pearson_lower_complement,
    clopper_pearson_upper,
)

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
