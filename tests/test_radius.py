import re
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri

from tcertify.bounds import clopper_pearson_lower, clopper_pearson_lower_complement
from tcertify.radius import (
    l2_radius_lower,
    largest_integer_change,
    normal_quantile_lower,
    normal_quantile_upper,
    radius_in_norm,
    vote_share_lower,
)
from tests.intervals import normal_quantile

RNG = np.random.default_rng(3)
PROBABILITIES = np.concatenate(
    [
        10 ** RNG.uniform(-300, -1, 300),
        RNG.uniform(0, 1, 300),
        0.5 + 10 ** RNG.uniform(-15.5, -1, 200) * RNG.choice([-1, 1], 200),
        1 - 10 ** RNG.uniform(-15.9, -1, 200),
    ]
)


def test_the_quantiles_enclose_the_exact_ones_within_ulps():
    lower, upper = normal_quantile_lower(PROBABILITIES), normal_quantile_upper(PROBABILITIES)
    assert (upper - lower <= 40 * np.spacing(np.abs(lower))).all()
    for p, low, high in zip(PROBABILITIES, lower, upper, strict=True):
        assert low < normal_quantile(p, low) < high


def test_the_quantiles_of_the_ends_and_the_middle_are_exact():
    for quantile in (normal_quantile_lower, normal_quantile_upper):
        np.testing.assert_array_equal(quantile([0, 0.5, 1]), [-np.inf, 0, np.inf])


@pytest.mark.parametrize("quantile", [normal_quantile_lower, normal_quantile_upper])
def test_a_quantile_of_no_probability_is_refused(quantile):
    with pytest.raises(ValueError, match=r"^`p` must be in \[0, 1\], got nan\.$"):
        quantile([0.3, np.nan])


@given(p_a=st.floats(1e-9, 1 - 2**-53), p_b=st.floats(1e-300, 0.999), sigma=st.floats(1e-3, 1e3))
def test_the_radius_lies_just_below_the_exact_one(p_a, p_b, sigma):
    radius = l2_radius_lower(p_a, p_b, sigma)
    z_a, z_b = normal_quantile(p_a, ndtri(p_a)), normal_quantile(p_b, ndtri(p_b))
    with mpmath.workdps(60):
        exact = mpmath.mpf(sigma) / 2 * (z_a - z_b)
        assert radius < exact
        assert exact - radius <= sigma * 1e-14 * (abs(z_a) + abs(z_b)) + 1e-300


@given(q=st.floats(1e-300, 1e-3))
def test_a_radius_from_the_complement_keeps_all_digits(q):
    p = np.nextafter(1 - q, 0)
    radius = l2_radius_lower(p, q, 1.0, q_a_upper=q)
    with mpmath.workdps(60):
        exact = -normal_quantile(mpmath.mpf(q), ndtri(q))
        assert radius < exact < radius * (1 + 1e-14)


def test_a_radius_near_one_half_keeps_its_sign_and_digits():
    lead = np.array([2.0**-53, 2.0**-40, 1e-9])
    radius = l2_radius_lower(0.5 + lead, 0.5, 1.0)
    np.testing.assert_allclose(radius, (0.5 + lead - 0.5) * np.sqrt(2 * np.pi) / 2, rtol=1e-14)
    assert l2_radius_lower(0.5, 0.5, 1.0) < 0  # rounded down, so it certifies nothing


def test_the_radius_of_all_votes_is_not_lost_in_the_rounding_of_p():
    n = 2**53
    p, q = clopper_pearson_lower(n, n, 0.5), clopper_pearson_lower_complement(n, n, 0.5)
    with_q = l2_radius_lower(p, q, 1.0, q_a_upper=q)
    assert with_q > 1.0001 * l2_radius_lower(p, 1 - p, 1.0)
    assert with_q == pytest.approx(-ndtri(np.log(2) / n), rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 0.1, 1.0), "`p_a_lower` must be below 1, got 1.0."),
        ((np.nan, 0.1, 1.0), "`p_a_lower` must be in [0, 1], got nan."),
        ((0.9, 0.0, 1.0), "`p_b_upper` must be above 0, got 0.0."),
        ((0.9, 1.1, 1.0), "`p_b_upper` must be in [0, 1], got 1.1."),
        ((0.9, 0.1, 0.0), "`sigma` must be positive and finite, got 0.0."),
        ((0.9, 0.1, np.inf), "`sigma` must be positive and finite, got inf."),
        (
            ([0.9, 0.8], [0.1] * 3, 1.0),
            "Shapes do not broadcast: `p_a_lower` (2,), `p_b_upper` (3,), `sigma` ().",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        l2_radius_lower(*arguments)


def test_a_complement_of_zero_is_refused():
    with pytest.raises(ValueError, match="`q_a_upper` must be above 0"):
        l2_radius_lower(0.9, 0.1, 1.0, q_a_upper=0.0)


def test_no_votes_give_no_radius():
    assert l2_radius_lower(0.0, 0.3, 1.0) == -np.inf
    assert l2_radius_lower(0.0, 1.0, 1.0, q_a_upper=1.0) == -np.inf


# --- what a radius says elsewhere -------------------------------------------------------------


@given(
    r=st.floats(0, 1e3),
    norm=st.sampled_from([1, 1.5, 2, 2.5, 4, np.inf]),
    size=st.integers(1, 10**6),
)
def test_a_radius_in_another_norm_is_rounded_down_from_the_exact_one(r, norm, size):
    found = radius_in_norm(r, norm, size)
    with mpmath.workdps(40):
        power = mpmath.mpf(0) if norm == np.inf else 1 / mpmath.mpf(norm)
        exact = mpmath.mpf(r) * mpmath.mpf(size) ** min(0, power - mpmath.mpf(1) / 2)
        # the last bit of a subnormal number is more than a part of it
        assert exact * (1 - mpmath.mpf(1e-14)) - mpmath.mpf(1e-322) <= found <= exact


@pytest.mark.parametrize("norm", [1.0, 1.5, 2.0, 3.0, np.inf])
def test_the_ball_of_a_norm_touches_the_l2_ball_from_inside(norm):
    spread, single = np.ones(8), np.eye(8)[0]
    points = [x / np.linalg.norm(x, norm) for x in (spread, single)]
    lengths = [float(np.linalg.norm(x)) * radius_in_norm(1.0, norm, 8) for x in points]
    assert max(lengths) == pytest.approx(1, rel=1e-13)
    assert max(lengths) <= 1 + 1e-15


@given(p=st.floats(1e-300, 1 - 2**-53), distance=st.floats(0, 20), sigma=st.floats(0.01, 10))
def test_the_floor_of_the_vote_share_is_rounded_down_from_the_exact_one(p, distance, sigma):
    found = float(vote_share_lower(p, distance, sigma))
    with mpmath.workdps(60):
        z = normal_quantile(p, ndtri(p)) - mpmath.mpf(distance) / mpmath.mpf(sigma)
        exact = mpmath.ncdf(z)
        assert found <= exact
        assert found >= exact * (1 - 1e-13 * (2 + z**2)) - 1e-300


def test_the_vote_share_falls_to_one_half_at_the_radius_of_a_majority():
    radius = l2_radius_lower(0.9, 0.1, 0.5)
    assert vote_share_lower(0.9, radius, 0.5) == pytest.approx(0.5, abs=1e-12)
    assert vote_share_lower(0.0, 1.0, 0.5) == 0


@given(numerator=st.integers(0, 10**6), levels=st.integers(1, 65535))
def test_the_largest_integer_change_is_the_last_one_inside_the_radius(numerator, levels):
    r = numerator / 10**6
    change = int(largest_integer_change(r, levels))
    square = (Fraction(r) * levels) ** 2
    assert change < square or change == -1
    assert change + 1 >= square
    assert (change == -1) == (r == 0)


def test_a_change_exactly_at_the_radius_is_not_covered():
    assert largest_integer_change([0.5, np.nextafter(0.5, 1)], 2).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (radius_in_norm, (-1.0, 2, 4), "`radius` must be at least 0 and finite, got -1.0."),
        (radius_in_norm, (1.0, 0.5, 4), "`norm` must be at least 1, got 0.5."),
        (radius_in_norm, (1.0, np.nan, 4), "`norm` must be at least 1, got nan."),
        (radius_in_norm, (1.0, 2, 0), "`size` must be at least 1, got 0."),
        (vote_share_lower, (1.5, 1.0, 1.0), "`p_a_lower` must be in [0, 1], got 1.5."),
        (vote_share_lower, (0.5, -1.0, 1.0), "`distance` must be at least 0 and finite, got -1.0."),
        (vote_share_lower, (0.5, 1.0, 0.0), "`sigma` must be positive and finite, got 0.0."),
        (largest_integer_change, (0.5, 0), "`levels` must be at least 1, got 0."),
        (
            largest_integer_change,
            (1e9, 255),
            "`radius` times `levels` must be at most 2^31, got 255000000000.0.",
        ),
    ],
)
def test_bad_arguments_elsewhere_are_named(function, arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        function(*arguments)
