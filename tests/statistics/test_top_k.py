import itertools
import math
import re

import mpmath
import numpy as np
import pytest
from scipy.special import ndtri

from tcertify.bounds import clopper_pearson_lower, clopper_pearson_upper
from tcertify.certificates import certify_counts
from tcertify.statistics.top_k import certify_top_k, subset_sizes, top_k_radius_lower
from tcertify.votes import Votes
from tests.intervals import normal_quantile
from tests.reference import trinomial


def true_radius(p_a, others, k):
    """The radius that the theorem gives these probabilities, sigma 1."""
    largest = np.sort(others)[-k:]
    masses = np.minimum(np.cumsum(largest), 1 - p_a)
    found = top_k_radius_lower(p_a, 1 - p_a, masses, np.arange(1, k + 1), 1.0)
    return float(found)


def outcomes(n, named):
    """Votes of `named` classes and of classes too rare to matter, shape (M, named + 1)."""
    some = itertools.product(range(n + 1), repeat=named)
    return np.array([(*row, n - sum(row)) for row in some if sum(row) <= n])


def votes_of(counts):
    """The first class is certified; the last column belongs to no class in particular."""
    return Votes.of(counts[:, :-1], np.zeros(len(counts), int), counts[:, -1])


# --- validity ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "k", "alpha", "bad"),  # bad: the worst probabilities that a random search found
    [
        (8, 2, 0.1, (0.687, 0.129, 0.184)),
        (12, 2, 0.3, (0.475, 0.296, 0.228)),
        (7, 3, 0.3, (0.593, 0.128, 0.179, 0.1)),
    ],
)
def test_a_radius_is_too_large_with_probability_at_most_alpha_for_every_classifier(
    n, k, alpha, bad
):
    # The radius grows with the votes for A and falls with those for the others, so that its
    # failure on a box of probabilities is bounded from two of its corners. Boxes whose bound
    # exceeds alpha are halved. More classes than k others can only make the radius smaller.
    counts = outcomes(n, k + 1)
    radius = certify_top_k(votes_of(counts), k, sigma=1.0, alpha=alpha).radius
    boxes = [(np.zeros(k + 1), np.ones(k + 1))]
    while boxes:
        low, high = boxes.pop()
        if low.sum() >= 1:
            continue
        high = np.minimum(high, 1 - (low.sum() - low))
        if failure(counts, radius, low, high, k) > alpha:
            side = int(np.argmax(high - low))
            lower, upper = high.copy(), low.copy()
            lower[side] = upper[side] = (low[side] + high[side]) / 2
            assert high[side] - low[side] > 1e-3
            boxes += [(low, lower), (upper, high)]
    assert 0.45 * alpha < failure(counts, radius, np.array(bad), np.array(bad), k) < 0.5 * alpha


def failure(counts, radius, low, high, k):
    """At least the probability of a radius too large, for every p in a box; exact for a point."""
    best = np.array([min(high[0], 1 - low[1:].sum()), *low[1:]])
    fails = radius > true_radius(low[0], high[1:], k)
    return trinomial(counts[fails], [*best, max(1 - best.sum(), 0.0)]).sum()


@pytest.mark.parametrize("n", [15, 20])
@pytest.mark.parametrize("j", [1, 2, 3])
def test_each_event_of_the_proof_stays_within_its_share_of_alpha(n, j):
    # The bound of the mass of the j least of k classes fails where their sum of votes is at most
    # x. Fewer votes are likelier for smaller probabilities, so the other k - j are taken to have no
    # more than the largest of the j, which leaves one number a to vary at j = 2. An interval of it
    # is bounded from the smallest probabilities in it, and halved while that exceeds the share (by
    # 1e-4 of it: three equal classes reach the share itself, but for an overlap of events).
    k, share = 3, 0.03
    counts = outcomes(n, k)
    least = np.sort(counts[:, :k], axis=1).cumsum(axis=1)[:, j - 1]
    largest = 0.0
    for x in range(n):
        # The bound fails for any mass above.
        mass = float(clopper_pearson_upper(x, n, share / math.comb(k, j)))
        fails = counts[least <= x]
        intervals = [(mass / 2, mass)] if j == 2 else [(mass, mass)]
        while intervals:
            a, b = intervals.pop()
            p = np.array([[mass, mass, mass], [mass - b, a, a], [mass, 0, 0]][j - 1])
            if p.sum() > 1:
                continue
            bound = trinomial(fails, [*p, 1 - p.sum()]).sum()
            largest = max(largest, bound)
            if bound > share * (1 + 1e-4):
                assert b - a > 1e-8
                intervals += [(a, (a + b) / 2), ((a + b) / 2, b)]
    assert largest > 0.5 * share  # the failures were looked for where they are


# --- the radius -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5, 40])
@pytest.mark.parametrize(
    ("p_a", "mass"),
    [(0.3, 0.1), (0.06, 0.05), (0.6, 0.4), (0.9, 1e-5), (0.999, 1e-3), (1e-4, 5e-5)],
)
def test_the_radius_of_one_size_solves_its_equation_and_is_rounded_down(p_a, mass, size):
    found = top_k_radius_lower(p_a, 1 - p_a, [mass], [size], 0.5)
    with mpmath.workdps(40):
        z_a, z_j = (normal_quantile(mpmath.mpf(p), ndtri(p)) for p in (p_a, mass))

        def lead(u):
            return size * mpmath.ncdf(z_a - u) - mpmath.ncdf(z_j + u)

        assert found > 0
        assert lead(found / 0.5) > 0
        assert lead((found + 1e-11) / 0.5) < 0


def test_the_radius_is_zero_without_a_lead_and_scales_with_sigma():
    sizes = [1, 2]
    assert top_k_radius_lower(0.1, 0.9, [0.2, 0.4], sizes, 1.0) == 0
    assert top_k_radius_lower(0.0, 1.0, [0.0, 0.1], sizes, 1.0) == 0
    one, half = (top_k_radius_lower(0.3, 0.7, [0.2, 0.4], sizes, s) for s in (1.0, 0.5))
    assert half == pytest.approx(one / 2, rel=1e-14)


# --- the certificate --------------------------------------------------------------------------


def test_one_of_one_is_the_joint_certificate():
    votes = Votes.of([[700, 200, 100], [300, 400, 300]], [0, 1])
    ours = certify_top_k(votes, 1, sigma=0.5, alpha=0.01)
    plain = certify_counts(votes.counts, votes.top, sigma=0.5, alpha=0.01)
    np.testing.assert_array_equal(ours.radius, plain.radius)
    assert ours.method == "joint"


def test_a_larger_k_certifies_more_and_the_bounds_are_those_of_their_levels():
    votes = Votes.of([[400, 300, 150, 100, 50]], [1], [200])
    radii = [float(certify_top_k(votes, k, sigma=1.0).radius[0]) for k in (2, 3, 4)]
    assert 0 < radii[0] < radii[1] < radii[2]
    found = certify_top_k(votes, 3, sigma=1.0, alpha=0.01)
    assert found.predicted.tolist() == [1]
    assert found.p_a_lower[0] == clopper_pearson_lower(300, 1200, 0.005)
    assert found.p_b_upper[0] == clopper_pearson_upper(100, 1200, 0.005 / 9)
    assert (found.method, found.n.tolist()) == ("top-3", [1200])


def test_the_number_of_classes_costs_nothing():
    few = np.array([[400, 300, 150, 100, 50]])
    many = np.concatenate([few, np.zeros((1, 995), dtype=int)], axis=1)
    small, large = (certify_top_k(Votes.of(c, [1]), 3, sigma=1.0) for c in (few, many))
    assert small.radius == large.radius


def test_what_is_not_among_the_first_abstains():
    found = certify_top_k(Votes.of([[50, 40, 9, 1], [97, 1, 1, 1]], [3, 0]), 2, sigma=1.0)
    assert found.predicted.tolist() == [-1, 0]
    assert found.radius[0] == 0


def test_sizes_with_very_many_choices_get_nothing():
    assert subset_sizes(5) == [1, 2, 3, 4, 5]
    assert subset_sizes(22) == list(range(1, 23))
    assert subset_sizes(100) == [1, 2, 3, 97, 98, 99, 100]


def test_many_of_many_classes_certify():
    counts = np.full((1, 100), 100)
    counts[0, 0] = 2000
    assert certify_top_k(Votes.of(counts, [0]), 50, sigma=1.0).radius > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 3}, "`k` must be below the number of classes, 3, got 3."),
        ({"k": 0}, "`k` must be at least 1, got 0."),
        ({"k": 1.5}, "`k` must be a whole number, got 1.5."),
        ({"sigma": 0.0}, "`sigma` must be positive and finite, got 0.0."),
        ({"alpha": 1.0}, "`alpha` must be in (0, 1), got 1.0."),
    ],
)
def test_misuse_is_named(change, message):
    arguments = {"k": 2, "sigma": 0.5, "alpha": 0.001} | change
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        certify_top_k(Votes.of([[5, 3, 2]], [0]), **arguments)
