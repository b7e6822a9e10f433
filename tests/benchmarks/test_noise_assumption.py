"""The script that says what an error of the noise does to alpha."""

import math

import pytest
from scipy.stats import binom

from benchmarks.noise_assumption import failure, lost_tail


def test_without_an_error_of_the_noise_the_failure_is_alpha():
    assert failure(1000, 1000, 0.001, 0.0) == pytest.approx(0.001, rel=1e-9)
    assert failure(990, 1000, 0.001, 0.0) == pytest.approx(0.001, rel=1e-6)


def test_at_unanimous_votes_an_error_acts_n_times():
    n, tau = 100_000, 1e-6
    assert failure(n, n, 0.001, tau) == pytest.approx(0.001 * math.exp(n * tau), rel=1e-3)
    assert failure(n, n, 0.001, 1e-4) == 1


def test_a_classifier_that_waits_for_the_tail_has_what_is_charged():
    # B wins where the longest of 75,264 pairs is above the largest radius that 32 bits give
    drawn, true = 0.0, 1 - (1 - 2.0**-33) ** 75_264
    assert lost_tail(150_528) == pytest.approx(true - drawn, rel=1e-4)
    assert binom.pmf(0, 10**6, true) < 0.001  # and so would be noticed, were it drawn
