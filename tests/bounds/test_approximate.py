import numba
import numpy as np
import pytest
from scipy.special import ndtri

from tcertify.bounds import joint_lower
from tcertify.bounds._approximate import approximate_lower, deviation

compiled = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="the joint bound takes minutes as plain Python"
)


@pytest.mark.parametrize(
    ("n", "alpha"),
    [(100, 0.001), (1000, 1e-5), pytest.param(100_000, 0.0008, marks=compiled)],
)
def test_the_approximate_bound_is_near_the_proved_one(n, alpha):
    rng = np.random.default_rng(0)
    k_a = np.append(rng.integers(n // 3, n + 1, 60), [n, n - 1, n - 5])
    k_b = (rng.uniform(0, 1, 63) ** 2 * (n - k_a)).astype(int)
    bound = joint_lower(k_a, k_b, n, alpha)
    slack = -ndtri(alpha) * np.sqrt(1 / n) * 2
    assert np.abs(approximate_lower(k_a, k_b, n, alpha) - bound).max() < max(0.1, slack)


def test_votes_need_not_be_whole():
    between = approximate_lower(np.array([80, 80.5, 81]), np.array([9.0, 9.25, 9.5]), 100, 0.01)
    assert (np.diff(between) > 0).all()


def test_the_deviation_is_that_of_estimates_from_many_votes():
    n, p = 10_000, (0.7, 0.2)
    counts = np.random.default_rng(0).multinomial(n, [*p, 0.1], 20_000)
    gaps = ndtri(counts[:, 0] / n) - ndtri(counts[:, 1] / n)
    expected = deviation(np.array(7000), np.array(2000), np.array(n))
    assert gaps.std() * np.sqrt(n) == pytest.approx(float(expected), rel=0.03)
