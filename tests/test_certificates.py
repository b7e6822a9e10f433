"""certify_counts: the published methods, their exact validity, and what they refuse."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri

from tcertify import ABSTAIN, Votes, certify_counts
from tcertify.bounds import clopper_pearson_lower, multiclass_upper
from tcertify.certificates import GRID, METHODS, certify_votes, predict_counts
from tests.reference import trinomial


def test_certify_is_sigma_times_the_quantile_of_the_lower_bound():
    result = certify_counts([[985, 10, 5]], [0], sigma=0.25, alpha=0.001, method="certify")
    expected = 0.25 * ndtri(clopper_pearson_lower(985, 1000, 0.001))
    assert result.radius[0] == pytest.approx(expected, rel=1e-12)
    assert result.predicted[0] == 0
    assert result.p_b_upper[0] == pytest.approx(1 - result.p_a_lower[0], rel=1e-12)


def test_t_certify_is_the_published_algorithm():
    counts, n, alpha, sigma = [700, 100, 150, 50], 1000, 0.001, 0.5
    best = 0.0
    for share in GRID:
        p_a = clopper_pearson_lower(700, n, share * alpha)
        p_b = 1 - p_a
        if share < 1:
            p_b = min(p_b, multiclass_upper(counts[1:], n, alpha - share * alpha))
        if p_a > 0.5:
            best = max(best, sigma / 2 * (ndtri(p_a) - ndtri(p_b)))
    result = certify_counts(counts, 0, sigma=sigma, alpha=alpha, method="t-certify")
    assert result.radius == pytest.approx(best, rel=1e-12)


@given(st.data())
def test_t_certify_is_never_below_certify(data):
    classes = data.draw(st.integers(2, 12))
    counts = data.draw(st.lists(st.integers(0, 3000), min_size=classes, max_size=classes))
    counts[0] += 1
    top = data.draw(st.integers(0, classes - 1))
    alpha = data.draw(st.sampled_from([0.5, 0.05, 0.001, 1e-6]))
    tight = certify_counts(counts, top, sigma=1.0, alpha=alpha, method="t-certify")
    plain = certify_counts(counts, top, sigma=1.0, alpha=alpha, method="certify")
    assert tight.radius >= plain.radius


@pytest.mark.parametrize("n", [5, 12, 25, 40])
def test_a_certificate_of_three_classes_fails_with_probability_at_most_alpha(n):
    """Exact: over every outcome of (N_A, N_B, N_C), for many (p_A, p_B, p_C)."""
    outcomes = np.array([(a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)])
    shares = np.linspace(0.02, 0.98, 25)
    results = {
        (method, alpha): certify_counts(
            outcomes, np.zeros(len(outcomes), int), sigma=2.0, alpha=alpha, method=method
        )
        for method in METHODS
        for alpha in (0.3, 0.05, 0.001)
    }
    for p_a in shares:
        for p_b in shares[shares < 1 - p_a + 1e-12]:
            p = np.array([p_a, p_b, max(0.0, 1 - p_a - p_b)])
            probability = trinomial(outcomes, p)
            truth = ndtri(p_a) - ndtri(p[1:].max())
            for (method, alpha), result in results.items():
                fails = (result.predicted == 0) & (result.radius > truth)
                assert probability[fails].sum() <= alpha * (1 + 1e-9), (method, alpha, p)


def test_ties_and_minorities_abstain():
    result = certify_counts([[50, 50], [10, 90], [100, 0]], [0, 0, 0], sigma=1.0)
    assert result.predicted.tolist() == [ABSTAIN, ABSTAIN, 0]
    assert result.radius[:2].tolist() == [0.0, 0.0]


def test_invalid_votes_count_against_every_class():
    clean = certify_counts([90, 10], 0, sigma=1.0)
    lossy = certify_counts([90, 10], 0, sigma=1.0, invalid=20)
    assert lossy.n == 120
    assert lossy.p_a_lower < clean.p_a_lower
    assert lossy.radius < clean.radius


@pytest.mark.parametrize("method", METHODS)
def test_votes_that_are_all_invalid_certify_nothing(method):
    result = certify_counts([0, 0, 0], 0, sigma=1.0, method=method, invalid=1000)
    assert (result.predicted, result.radius) == (ABSTAIN, 0.0)


@pytest.mark.parametrize("method", METHODS)
def test_permuting_classes_permutes_answers_and_sigma_scales_the_radius(method):
    counts = np.array([[700, 200, 60, 40]])
    order = np.array([2, 0, 3, 1])
    here = certify_counts(counts, [0], sigma=1.0, method=method)
    there = certify_counts(counts[:, order], [1], sigma=2.0, method=method)
    assert there.predicted == 1
    assert there.radius == pytest.approx(2 * here.radius, rel=1e-14)


def test_shapes_follow_the_inputs():
    counts = np.full((2, 3, 4), [900, 50, 30, 20])
    result = certify_counts(counts, np.zeros((2, 3), int), sigma=1.0)
    assert result.radius.shape == result.predicted.shape == result.n.shape == (2, 3)
    assert len(result[0]) == 3
    single = certify_counts(counts[0, 0], 0, sigma=1.0)
    assert single.radius.shape == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": 0}, "`sigma` must be positive and finite, got 0.0."),
        ({"sigma": -1.0}, "`sigma` must be positive"),
        ({"sigma": float("nan")}, "`sigma` must be positive"),
        ({"sigma": "wide"}, "`sigma` must be a number, got 'wide'."),
        ({"alpha": 1.5}, r"`alpha` must be in \(0, 1\), got 1.5."),
        ({"alpha": 0}, r"`alpha` must be in \(0, 1\)"),
        ({"alpha": float("nan")}, r"`alpha` must be in \(0, 1\)"),
        ({"counts": [-1, 5]}, "`counts` must be at least 0, got -1."),
        ({"counts": [0.5, 5]}, "`counts` must be whole numbers, got 0.5."),
        ({"counts": [float("nan"), 5]}, "`counts` must be whole numbers, got nan."),
        ({"counts": [0, 0]}, "got a sum of 0"),
        ({"counts": [7]}, "at least 2 classes"),
        ({"grid": (0.5, 1.5)}, r"`grid` must hold values in \(0, 1\], got 1.5."),
        ({"grid": (0.0,)}, r"`grid` must hold values in \(0, 1\], got 0.0."),
        ({"grid": ()}, r"`grid` must hold values in \(0, 1\], got none."),
        ({"top": 2}, "`top` must be at most 1, got 2."),
        ({"top": -1}, "`top` must be at least 0, got -1."),
        ({"top": [0, 0]}, r"`top` must have shape \(\), got \(2,\)."),
        ({"invalid": -1}, "`invalid` must be at least 0"),
        ({"invalid": [1, 2]}, r"`invalid` must have shape \(\)"),
        ({"method": "magic"}, "`method` must be one of .*, got 'magic'."),
    ],
)
def test_bad_arguments_get_one_sentence(change, message):
    arguments = {"counts": [90, 10], "top": 0, "sigma": 1.0} | change
    counts, top = arguments.pop("counts"), arguments.pop("top")
    with pytest.raises(ValueError, match=message):
        certify_counts(counts, top, **arguments)


def test_votes_known_to_be_valid_give_the_same_certificates():
    counts, top, invalid = [[700, 200, 60], [10, 5, 900]], [0, 2], [40, 0]
    for method in METHODS:
        public = certify_counts(counts, top, sigma=0.5, alpha=0.01, method=method, invalid=invalid)
        votes = Votes.of(counts, top, invalid)
        inner = certify_votes(votes, sigma=0.5, alpha=0.01, method=method)
        for name in ("predicted", "radius", "p_a_lower", "p_b_upper", "n"):
            np.testing.assert_array_equal(getattr(inner, name), getattr(public, name))


@pytest.mark.parametrize("method", METHODS)
def test_one_input_gets_arrays_without_axes(method):
    one = certify_counts([900, 50, 50], 0, sigma=1.0, method=method)
    many = certify_counts([[900, 50, 50]], [0], sigma=1.0, method=method)
    for name in ("predicted", "radius", "p_a_lower", "p_b_upper", "n"):
        assert isinstance(getattr(one, name), np.ndarray)
        assert getattr(one, name).shape == ()
        assert getattr(many[0], name).shape == ()
        assert getattr(one, name) == getattr(many, name)[0]


def test_a_grid_of_a_hundred_splits_is_searched():
    grid = np.arange(1, 101) / 100
    fine = certify_counts([700, 200, 100], 0, sigma=1.0, method="t-certify", grid=grid)
    usual = certify_counts([700, 200, 100], 0, sigma=1.0, method="t-certify")
    assert fine.radius >= usual.radius


def test_more_votes_than_the_joint_bound_serves_are_refused():
    with pytest.raises(ValueError, match="must sum to at most 1000000000000 for the joint"):
        certify_counts([10**12, 1], 0, sigma=1.0)
    assert certify_counts([10**12, 1], 0, sigma=1.0, method="certify").radius > 0


def test_a_sigma_among_the_smallest_floats_rounds_radii_down():
    for sigma in (5e-324, 1.5e-323, 5e-323):
        for method in METHODS:
            result = certify_counts([10**6, 0], 0, sigma=sigma, method=method)
            exact = Fraction(sigma) * Fraction(float(-ndtri(-np.expm1(np.log(1e-3) / 1e6))))
            assert 0 <= Fraction(float(result.radius)) <= exact


@pytest.mark.parametrize("method", ["certify", "joint", "t-certify"])
@pytest.mark.parametrize("counts", [[99, 1, 0], [50, 49, 1], [100_000, 3, 0], [1, 0, 0]])
def test_the_smallest_alpha_gives_bounds_that_are_numbers_and_a_smaller_one_is_refused(
    method, counts
):
    found = certify_counts(counts, 0, sigma=0.5, alpha=1e-300, method=method)
    assert 0 <= found.p_a_lower <= found.p_b_upper <= 1
    assert 0 <= found.radius < np.inf
    with pytest.raises(ValueError, match="`alpha` must be at least 1e-300, got 5e-324"):
        certify_counts(counts, 0, sigma=0.5, alpha=5e-324, method=method)


def test_counts_and_grids_that_are_single_numbers_are_refused():
    with pytest.raises(ValueError, match=r"`counts` must have at least 2 classes, got shape \(\)"):
        predict_counts(5, 0.001)
    with pytest.raises(ValueError, match=r"`grid` must be a sequence of numbers, got 0\.5"):
        certify_counts([9, 1], 0, sigma=0.5, alpha=0.001, method="t-certify", grid=0.5)
