import itertools
import re

import numpy as np
import pytest
from scipy import stats

from tcertify.bounds import joint
from tcertify.certificates import certify_counts
from tcertify.statistics import certify_family, expected_wrong_certificates


def test_wrong_certificates_are_expected_in_proportion():
    assert expected_wrong_certificates(500, 0.001) == 0.5


@pytest.mark.parametrize("method", ["joint", "certify", "t-certify"])
def test_a_family_of_one_is_an_ordinary_certificate(method):
    votes = [[80, 20]]
    alone = certify_counts(votes, [0], sigma=1.0, alpha=0.01, method=method).radius[0]
    for radius, answer in ((alone, True), (alone * 1.0001, False), (0.0, True)):
        family = certify_family(votes, [0], radius, sigma=1.0, alpha=0.01, method=method)
        assert family.tolist() == [answer]


@pytest.mark.parametrize("method", ["certify", "joint"])
def test_holm_steps_down_where_bonferroni_stops(method):
    # At alpha / 2 only the first passes; the second then has all of alpha.
    votes, lone = [[100, 0], [66, 34]], {}
    for level in (0.005, 0.01):
        lone[level] = certify_counts(votes, [0, 0], sigma=1.0, alpha=level, method=method).radius
    radius = (lone[0.005][1] + lone[0.01][1]) / 2
    assert lone[0.005][1] < radius < lone[0.01][1]
    both = certify_family(votes, [0, 0], radius, sigma=1.0, alpha=0.01, method=method)
    assert both.tolist() == [True, True]
    hard = [[70, 30], [66, 34]]
    higher = certify_counts(hard, [0, 0], sigma=1.0, alpha=0.005, method=method).radius[0] + 0.01
    neither = certify_family(hard, [0, 0], [higher, radius], sigma=1.0, alpha=0.01, method=method)
    assert neither.tolist() == [False, False]


def test_holm_agrees_with_exact_p_values_for_certify():
    rng = np.random.default_rng(0)
    k = rng.integers(50, 101, 40)
    family = certify_family(
        np.stack([k, 100 - k], axis=1),
        np.zeros(40, int),
        0.5,
        sigma=1.0,
        alpha=0.05,
        method="certify",
    )
    p_values = np.sort(stats.binom.sf(k - 1, 100, stats.norm.cdf(0.5)))
    passed = p_values * np.arange(40, 0, -1) <= 0.05
    expected = 40 if passed.all() else int(np.argmin(passed))
    assert family.sum() == expected
    assert 0 < expected < 40


@pytest.mark.parametrize("method", ["joint", "certify"])
def test_any_error_in_a_family_has_probability_at_most_alpha(method):
    # Three inputs, all of them exactly at the radius: every certificate is an error.
    n, alpha, radius, inputs = 12, 0.2, 0.25, 3
    p_a = stats.norm.cdf(radius)
    outcomes = np.arange(n + 1)
    mass = stats.binom.pmf(outcomes, n, p_a)
    error = 0.0
    for family in itertools.combinations_with_replacement(outcomes, inputs):
        k = np.array(family)
        orders = len(set(itertools.permutations(family)))
        passed = certify_family(
            np.stack([k, n - k], axis=1),
            np.zeros(inputs, int),
            radius,
            sigma=1.0,
            alpha=alpha,
            method=method,
        )
        error += orders * mass[k].prod() * passed.any()
    assert 0.01 < error <= alpha


@pytest.mark.parametrize("method", ["joint", "certify"])
@pytest.mark.parametrize("sure", [False, True], ids=["all at the radius", "one beyond it"])
def test_inputs_of_different_samples_make_a_family_too(method, sure):
    # One that is robust falls first, and leaves the others a larger level.
    sizes, alpha, radius = (5, 7, 9), 0.2, 0.25
    p_a = [stats.norm.cdf(radius)] * 2 + [1.0 if sure else stats.norm.cdf(radius)]
    masses = [stats.binom.pmf(np.arange(n + 1), n, p) for n, p in zip(sizes, p_a, strict=True)]
    error = 0.0
    for family in itertools.product(*(np.flatnonzero(mass) for mass in masses)):
        k = np.array(family)
        passed = certify_family(
            np.stack([k, sizes - k], axis=1),
            [0, 0, 0],
            radius,
            sigma=1.0,
            alpha=alpha,
            method=method,
        )
        wrong = passed[:2].any() if sure else passed.any()
        error += wrong * np.prod([mass[one] for mass, one in zip(masses, k, strict=True)])
    assert 0.01 < error <= alpha


def test_the_joint_bound_of_one_ordering_grows_with_alpha():
    n, order = 40, 0.001
    k_a, k_b = (k.ravel() for k in np.indices((n + 1, n + 1)))
    k_a, k_b = k_a[k_a + k_b <= n], k_b[k_a + k_b <= n]
    before = -np.inf
    for alpha in (0.001, 0.002, 0.01, 0.1):
        bound = joint.lower(k_a, k_b, np.full_like(k_a, n), np.full(len(k_a), alpha), order=order)
        assert (bound >= before - 1e-3).all()
        before = bound


def test_equal_inputs_of_a_family_are_bounded_once(monkeypatch):
    rows, bounded = [], joint._distinct
    monkeypatch.setattr(joint, "_distinct", lambda *a: rows.append(len(a[0])) or bounded(*a))
    family = certify_family([[900, 60]] * 50, [0] * 50, 0.5, sigma=0.5, invalid=40)
    assert family.all()
    assert max(rows) == 1


@pytest.mark.parametrize("method", ["joint", "certify"])
def test_a_family_without_a_member_has_no_answer(method):
    empty = np.zeros((0, 3), int)
    assert certify_family(empty, [], 0.5, sigma=0.5, method=method).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": [0.1, 0.2]}, "`radius` must have shape (1,), got (2,)."),
        ({"radius": -1}, "`radius` must be at least 0 and finite, got -1.0."),
        ({"counts": [9, 1], "top": 0}, "`counts` must have shape (M, C), got (2,)."),
        ({"alpha": 1}, "`alpha` must be in (0, 1), got 1.0."),
        ({"sigma": 0}, "`sigma` must be positive and finite, got 0.0."),
        ({"method": "holm"}, "`method` must be one of joint, t-certify, certify, got 'holm'."),
    ],
)
def test_misuse_is_named(change, message):
    good = {"counts": [[9, 1]], "top": [0], "radius": 0.1, "sigma": 1.0}
    with pytest.raises(ValueError, match=re.escape(message)):
        certify_family(**(good | change))


def test_a_family_has_a_member_when_wrong_certificates_are_counted():
    with pytest.raises(ValueError, match=r"`images` must be at least 1, got 0\."):
        expected_wrong_certificates(0, 0.001)
