"""Speed of the bounds, each checked on the same output before it is timed.

Run with ``python -m pytest benchmarks/test_bounds.py --benchmark-enable``.
"""

import numpy as np
import pytest
from scipy.special import betaincinv
from statsmodels.stats.proportion import proportion_confint

from tcertify.bounds import clopper_pearson_lower, multiclass_upper
from tcertify.certificates import certify_counts

N, ALPHA = 100_000, 0.001
LOOPED = 2_000  # of the million, for the loop: its time a bound does not depend on how many


@pytest.fixture(scope="module")
def counts():
    return np.random.default_rng(0).integers(1, N, size=1_000_000)


def bare_scipy(counts):
    return betaincinv(counts, N - counts + 1, ALPHA)


def loop_of_the_field(counts):
    return [proportion_confint(k, N, alpha=2 * ALPHA, method="beta")[0] for k in counts]


@pytest.mark.benchmark(group="a million lower bounds")
def test_ours(benchmark, counts):
    bounds = benchmark.pedantic(clopper_pearson_lower, (counts, N, ALPHA), rounds=5)
    np.testing.assert_allclose(bounds, bare_scipy(counts), rtol=1e-8)


@pytest.mark.benchmark(group="a million lower bounds")
def test_bare_scipy_unsound_by_ulps(benchmark, counts):
    bounds = benchmark.pedantic(bare_scipy, (counts,), rounds=5)
    assert np.isfinite(bounds).all()


@pytest.mark.benchmark(group="two thousand lower bounds")
def test_ours_for_two_thousand(benchmark, counts):
    bounds = benchmark(clopper_pearson_lower, counts[:LOOPED], N, ALPHA)
    np.testing.assert_allclose(bounds, bare_scipy(counts[:LOOPED]), rtol=1e-8)


@pytest.mark.benchmark(group="two thousand lower bounds")
def test_the_loop_of_the_field_over_statsmodels(benchmark, counts):
    bounds = benchmark.pedantic(loop_of_the_field, (counts[:LOOPED],), rounds=3)
    np.testing.assert_allclose(bounds, bare_scipy(counts[:LOOPED]), rtol=1e-8)


def sample_of_rivals(inputs, classes):
    rng = np.random.default_rng(1)
    shares = rng.dirichlet(np.full(classes, 0.5), size=inputs)
    return np.array([rng.multinomial(N, share) for share in shares])


@pytest.mark.benchmark(group="eq. 14, 500 inputs of 1000 classes")
def test_multiclass_upper(benchmark):
    others = np.sort(sample_of_rivals(500, 1000), axis=1)[:, :-1]
    bounds = benchmark.pedantic(multiclass_upper, (others, N, ALPHA), rounds=3)
    largest = others.max(axis=1) / N
    assert (bounds > largest).all()
    assert (bounds < largest + 6 * np.sqrt(largest / N)).all()


@pytest.mark.benchmark(group="T-CERTIFY, 10,000 inputs of 10 classes, a grid of 10")
def test_t_certify(benchmark):
    votes = sample_of_rivals(10_000, 10)
    top = votes.argmax(axis=1)
    run = {"sigma": 0.5, "alpha": ALPHA, "method": "t-certify"}
    result = benchmark.pedantic(certify_counts, (votes, top), run, rounds=3)
    baseline = certify_counts(votes, top, sigma=0.5, alpha=ALPHA, method="certify")
    assert (result.radius >= baseline.radius).all()
    assert (result.radius > baseline.radius).sum() > 1_000
