import re

import numpy as np
import pytest
from flint import arb
from hypothesis import given
from hypothesis import strategies as st

from tcertify.bounds import clopper_pearson_upper, multiclass_upper
from tests.intervals import binomial_masses, binomial_tail


def exact_sum(counts, n, p):
    """An interval around sum_j P(Bin(n, p) <= N_j)."""
    # P(Bin(n, p) <= N) = P(Bin(n, 1 - p) >= n - N)
    return sum((binomial_tail(n - int(c), n, 1 - p) for c in counts), arb(0))


CASES = [
    ([3, 2, 2], 10, 0.05),
    ([0] * 9, 1000, 0.001),
    ([50, 40, 40, 0, 0], 1000, 1e-6),
    ([9_000, 8_990, 8_900, 3], 10**5, 0.0005),
    ([600_000, 100, 1], 10**6, 0.001),
    ([990, 985, 3], 1000, 0.001),
    ([999, 999, 998], 1000, 0.4),
    ([2, 1, 1, 0], 10**6, 0.5),
    ([7, 7, 6], 20, 0.999),
    ([300_000, 299_000, 2], 10**8, 1e-9),
]


@pytest.mark.parametrize(("counts", "n", "alpha"), CASES)
def test_the_exact_sum_is_alpha_just_below_the_bound_and_no_more_at_it(counts, n, alpha):
    bound = arb(float(multiclass_upper(counts, n, alpha)))
    assert exact_sum(counts, n, bound) <= arb(alpha)
    looseness = 1e-12 if n <= 10**6 and alpha <= 0.5 else 1e-9
    assert exact_sum(counts, n, bound * (1 - arb(looseness))) > arb(alpha)


@pytest.mark.parametrize("n", [1, 7, 1000, 10**6])
def test_one_class_has_the_clopper_pearson_bound(n):
    counts = np.unique(np.linspace(0, n, 50).astype(int))
    alpha = np.array([[1e-9], [0.001], [0.4]])
    np.testing.assert_array_equal(
        multiclass_upper(counts[:, None], n, alpha), clopper_pearson_upper(counts, n, alpha)
    )


@pytest.mark.parametrize("n", [1, 7, 1000, 10**6])
def test_equal_classes_share_alpha(n):
    count = n // 3
    np.testing.assert_array_equal(
        multiclass_upper([count] * 9, n, 0.001), clopper_pearson_upper(count, n, 0.001 / 9)
    )


def test_a_count_of_n_leaves_nothing_to_exclude():
    np.testing.assert_array_equal(multiclass_upper([[10, 0], [3, 10]], 10, 0.001), 1)


def test_the_order_of_classes_and_the_company_of_rows_change_nothing():
    rng = np.random.default_rng(1)
    counts = rng.multinomial(1000, np.ones(40) / 40, size=300)[:, 1:]
    together = multiclass_upper(counts, 1000, 0.001)
    alone = [multiclass_upper(row[::-1], 1000, 0.001) for row in counts]
    np.testing.assert_array_equal(together, alone)


def test_counts_samples_and_alpha_broadcast():
    counts = np.arange(24).reshape(4, 1, 6)
    table = multiclass_upper(counts, [100, 200, 300], np.full((2, 1, 1), 0.01))
    assert table.shape == (2, 4, 3)
    assert table[1, 3, 2] == multiclass_upper(counts[3, 0], 300, 0.01)
    assert isinstance(multiclass_upper([1, 2], 10, 0.1), np.float64)
    assert multiclass_upper(np.zeros((0, 3), dtype=int), 10, 0.1).shape == (0,)


@given(
    counts=st.lists(st.integers(0, 200), min_size=1, max_size=12),
    extra=st.integers(0, 200),
    alpha=st.floats(1e-9, 0.5),
)
def test_more_votes_and_more_classes_raise_the_bound_and_more_samples_lower_it(
    counts, extra, alpha
):
    bound = multiclass_upper(counts, 200, alpha)
    ulps = 1 + 1e-12  # what the steps of two different sums may differ by
    assert bound <= multiclass_upper([*counts, extra], 200, alpha) * ulps
    assert bound <= multiclass_upper(np.minimum(np.add(counts, 1), 200), 200, alpha) * ulps
    assert multiclass_upper(counts, 201, alpha) <= bound * ulps
    assert bound <= multiclass_upper(counts, 200, alpha / 2) * ulps


@pytest.mark.parametrize("n", [1, 5, 12, 40])
@pytest.mark.parametrize("alpha", [0.5, 0.05, 0.001])
def test_exact_failure_never_exceeds_alpha_for_two_rivals(n, alpha):
    first, second = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    possible = first + second <= n
    bound = np.where(possible, multiclass_upper(np.stack([first, second], -1), n, alpha), 1.0)
    for p in np.linspace(0.02, 0.98, 25):
        for q in np.linspace(0.02, 1 - p, 6):
            if p + q <= 1:
                # trinomial masses: the first count, then the second among the rest
                mass = binomial_masses(n, np.array([p]))[:, None] * np.stack(
                    [
                        np.append(binomial_masses(n - a, np.array([min(q / (1 - p), 1)])), [0] * a)
                        for a in range(n + 1)
                    ]
                )
                assert mass[bound < max(p, q)].sum() <= alpha * (1 + 1e-9)


@pytest.mark.parametrize(
    ("counts", "n", "alpha", "message"),
    [
        ([1, 2], 10, 1.5, "`alpha` must be in (0, 1), got 1.5."),
        ([1, 2], 0, 0.1, "`n` must be at least 1, got 0."),
        ([1, -2], 10, 0.1, "`counts` must be at least 0, got -2."),
        ([1, 2.5], 10, 0.1, "`counts` must be whole numbers, got 2.5."),
        ([1, 11], 10, 0.1, "`counts` must be at most `n`, got 11 of 10."),
        (3, 10, 0.1, "`counts` must have shape (..., C - 1) with C > 1, got ()."),
        (
            [[1, 2]] * 2,
            [10] * 3,
            0.1,
            "Shapes do not broadcast: `counts` (2,), `n` (3,), `alpha` ().",
        ),
    ],
)
def test_bad_arguments_are_named(counts, n, alpha, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        multiclass_upper(counts, n, alpha)
