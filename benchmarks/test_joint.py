"""The joint bound: one certificate at n = 100,000, and a batch of 500 different ones."""

import numpy as np
import pytest
from scipy.special import ndtri

from tcertify.bounds import joint_lower

N = 100_000


def limit_of_slack(p_a, p_b, n, alpha):
    """z_alpha s: the asymptotic distance of a lower bound from t."""
    g_a, g_b = (np.sqrt(2 * np.pi) * np.exp(ndtri(p) ** 2 / 2) for p in (p_a, p_b))
    variance = g_a**2 * p_a * (1 - p_a) + g_b**2 * p_b * (1 - p_b) + 2 * g_a * g_b * p_a * p_b
    return -ndtri(alpha) * np.sqrt(variance / n)


@pytest.mark.parametrize(("p_a", "p_b"), [(0.6, 0.3), (0.5, 0.49), (0.7, 0.3), (0.99, 0.005)])
def test_one_certificate(benchmark, p_a, p_b):
    bound = benchmark(joint_lower, round(N * p_a), round(N * p_b), N, 0.001)
    slack = ndtri(p_a) - ndtri(p_b) - bound
    assert 0.98 < slack / limit_of_slack(p_a, p_b, N, 0.001) < 1.01


def test_500_different_certificates(benchmark):
    rng = np.random.default_rng(0)
    k_a = rng.integers(N // 3, N, 500)
    k_b = rng.integers(0, np.minimum(k_a, N - k_a) + 1)
    bound = benchmark.pedantic(joint_lower, (k_a, k_b, N, 0.001), rounds=3)
    many = k_b >= 500
    p_a, p_b = k_a[many] / N, k_b[many] / N
    ratio = (ndtri(p_a) - ndtri(p_b) - bound[many]) / limit_of_slack(p_a, p_b, N, 0.001)
    assert ((ratio > 0.98) & (ratio < 1.01)).all()
