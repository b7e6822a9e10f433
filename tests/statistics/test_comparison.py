import mpmath
import numpy as np
import pytest
from scipy.special import ndtri

from tcertify.bounds import clopper_pearson_lower, multiclass_upper
from tcertify.certificates import certify_counts
from tcertify.radius import l2_radius_lower
from tcertify.statistics.comparison import (
    jia_top_k_radius,
    lecuyer_radius,
    li_radius,
    sison_glaz_intervals,
)
from tcertify.statistics.top_k import certify_top_k
from tcertify.votes import Votes
from tests.reference import trinomial

PAIRS = [(0.6, 0.4), (0.6, 0.1), (0.9, 0.1), (0.99, 0.01), (0.999, 1e-4), (0.4, 0.2)]


def lecuyer(p_a, p_b, epsilon):
    argument = 1.25 * (1 + mpmath.e**epsilon) / (p_a - mpmath.e ** (2 * epsilon) * p_b)
    return epsilon / mpmath.sqrt(2 * mpmath.log(argument))


def li(p_a, p_b, order):
    mean = ((p_a ** (1 - order) + p_b ** (1 - order)) / 2) ** (1 / (1 - order))
    return mpmath.sqrt(-2 / order * mpmath.log(1 - p_a - p_b + 2 * mean))


@pytest.mark.parametrize(("p_a", "p_b"), PAIRS)
def test_each_rule_is_the_largest_value_of_its_formula(p_a, p_b):
    a, b = mpmath.mpf(p_a), mpmath.mpf(p_b)
    top = min(1, mpmath.log(a / b) / 2)
    epsilons = [top * i / 2000 for i in range(1, 2000)]
    if top == 1:
        epsilons.append(top)
    best = max(lecuyer(a, b, e) for e in epsilons)
    assert best * (1 - 1e-11) <= lecuyer_radius(p_a, p_b, 1.0) <= best * (1 + 1e-5)
    orders = [mpmath.mpf(10) ** (mpmath.mpf(i) / 500) for i in range(-1499, 1500, 2)]
    best = max(li(a, b, order) for order in orders)
    assert best * (1 - 1e-11) <= li_radius(p_a, p_b, 1.0) <= best * (1 + 1e-5)


def test_the_tight_rule_lies_above_both_and_renyi_above_privacy_for_a_majority():
    p_a, p_b = np.meshgrid(np.linspace(0.02, 0.999, 60), np.linspace(1e-4, 0.6, 60))
    possible = (p_a + p_b <= 1) & (p_a > p_b)
    privacy, renyi, tight = (
        rule(p_a, p_b, 0.5)[possible] for rule in (lecuyer_radius, li_radius, l2_radius_lower)
    )
    assert (privacy > 0).all()
    assert (np.maximum(privacy, renyi) < tight).all()
    assert (renyi > privacy)[p_a[possible] > 0.5].all()


@pytest.mark.parametrize("rule", [lecuyer_radius, li_radius])
def test_a_rule_gives_no_radius_without_a_lead_and_scales_with_sigma(rule):
    np.testing.assert_array_equal(rule([0.3, 0.2, 0.0], [0.3, 0.5, 0.0], 1.0), 0)
    assert rule(0.8, 0.1, 0.25) == pytest.approx(0.25 * rule(0.8, 0.1, 1.0), rel=1e-14)
    with pytest.raises(ValueError, match=r"^`sigma` must be positive and finite, got -1\.0\.$"):
        rule(0.8, 0.1, -1.0)


def test_the_fixed_split_is_a_grid_of_one_half():
    counts = np.array([[900, 60, 40], [700, 200, 100]])
    p_a = clopper_pearson_lower(counts[:, 0], 1000, 0.0005)
    p_b = multiclass_upper(counts[:, 1:], 1000, 0.0005)
    split = certify_counts(counts, [0, 0], sigma=0.5, method="t-certify", grid=[0.5])
    np.testing.assert_allclose(split.radius, l2_radius_lower(p_a, p_b, 0.5), rtol=1e-12)


@pytest.mark.parametrize("n", [5, 8])
def test_certificates_from_sison_glaz_intervals_fail_far_more_often_than_alpha(n):
    alpha, p = 0.001, np.array([0.98, 0.01, 0.01])
    outcomes = np.array([(a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)])
    intervals = [sison_glaz_intervals(row, alpha) for row in outcomes]
    p_a = np.array([lower[0] for lower, _ in intervals])
    p_b = np.array([upper[1:].max() for _, upper in intervals])
    wrong = ndtri(np.clip(p_a, 0, 1)) - ndtri(np.clip(p_b, 0, 1)) > ndtri(0.98) - ndtri(0.01)
    failure = trinomial(outcomes, p)[wrong].sum()
    assert failure >= 0.98**n  # all votes for one class: each interval is a point
    assert failure > 800 * alpha


def test_the_published_top_k_radius_pays_for_every_class():
    few, many = (Votes.of([[400, 300, 200, 100, *[0] * rest]], [0]) for rest in (0, 1000))
    published = [float(jia_top_k_radius(v, 3, sigma=0.5, alpha=0.01)[0]) for v in (few, many)]
    assert 0 < published[1] < published[0]
    ours = [float(certify_top_k(v, 3, sigma=0.5, alpha=0.01).radius[0]) for v in (few, many)]
    assert ours[0] == ours[1] > published[1]
    with pytest.raises(ValueError, match="`k` must be below the number of classes, 4, got 4"):
        jia_top_k_radius(few, 4, sigma=0.5)
