"""The charge for noise that is not exactly Gaussian: no hostile noise within it breaks alpha."""

import math

import numba
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from tcertify.bounds import charged_alpha, clopper_pearson_lower, joint_lower
from tcertify.bounds.charge import grown, n_tau
from tcertify.certificates import METHODS
from tcertify.statistics.stopping import Schedule
from tests.enumerated import certified_t
from tests.reference import AnyLook, UpperSet

JIT = not numba.config.DISABLE_JIT

#: Noise far worse than what is drawn, so that it shows in few samples of one pair each.
HOSTILE = {"bend": 0.02, "largest": 0.25, "lost": 2e-4}


def charged(alpha, n):
    """The level that makes up for `HOSTILE` noise."""
    return brentq(lambda level: grown(level, n, **HOSTILE) - alpha, alpha / 10, alpha) * (1 - 1e-9)


def tilted(p, sign):
    """The farthest that an event of probability p can move, up or down, as drawn.

    Noise whose density ratio to the Gaussian has a log h with E h^2 <= bend^2, |h| <= largest, as
    drawn, moves it to q with q log^2(q / p) + (1 - q) log^2((1 - q) / (1 - p)) <= bend^2 at most:
    t log^2 t is convex where t > 1/e, so that it falls when outcomes are put together. What is
    lost of the tail comes on top.
    """
    p = np.asarray(p, dtype=float)

    def excess(q):
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = [x * np.log(x / y) ** 2 for x, y in ((q, p), (1 - q, 1 - p))]
        return sum(np.where(np.isnan(part), 0.0, part) for part in parts) - HOSTILE["bend"] ** 2

    near, far = p.copy(), np.where(sign > 0, np.minimum(p * 1.3, 1), p / 1.3)
    for _ in range(60):
        middle = (near + far) / 2
        inside = excess(middle) <= 0
        near, far = np.where(inside, middle, near), np.where(inside, far, middle)
    return np.clip(far + sign * HOSTILE["lost"], 0, 1)


def fails_with_at_most(event, t, alpha, *, most=200_000):
    """Whether no (p_A, p_c) on the curve of t makes the event likelier than alpha as drawn.

    On a cell of the curve the probability, as drawn, is at most that at the upper end's largest
    p_A and the lower end's smallest p_c. Cells are halved until all are decided.
    """
    low = t / 2 - 4
    z = np.linspace(low, t / 2, 33)
    assert probability(event, np.array([low]), np.array([-np.inf]))[0] <= alpha
    left, right = z[:-1], z[1:]
    while len(left):
        assert len(left) < most
        if (probability(event, right, right - t) > alpha).any():
            return False
        open_cells = probability(event, right, left - t) > alpha
        left, right = left[open_cells], right[open_cells]
        middle = (left + right) / 2
        left, right = np.concatenate([left, middle]), np.concatenate([middle, right])
    return True


def probability(event, z_a, z_c):
    return event.probability(ndtri(tilted(ndtr(z_a), 1)), ndtri(tilted(ndtr(z_c), -1)))


def test_the_hostile_noise_breaks_what_is_not_charged():
    n, alpha = 20, 0.05
    p = float(clopper_pearson_lower(n, n, alpha)) * (1 - 1e-12)  # its certificate says more
    assert binom.sf(n - 1, n, tilted(p, 1)) > 1.03 * alpha
    assert (
        binom.sf(n - 1, n, tilted(float(clopper_pearson_lower(n, n, charged(alpha, n))), 1)) < alpha
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n", "alpha"), [(12, 0.1), (20, 0.01)] if JIT else [(6, 0.1)])
def test_a_charged_certificate_of_any_method_fails_with_at_most_alpha_as_drawn(method, n, alpha):
    bound = certified_t(n, charged(alpha, n), method)
    for t in np.unique(bound[np.isfinite(bound)]):
        assert fails_with_at_most(UpperSet(n, bound >= t), t, alpha)


@pytest.mark.parametrize("method", METHODS)
def test_a_charged_certificate_of_the_best_of_several_looks_does_so_too(method):
    looks, alpha = ((6, 12, 18) if JIT else (3, 6)), 0.1
    level = charged(alpha, looks[-1])  # for the samples of all looks
    schedule = Schedule(looks, (0.2 * level, *[0.8 * level / (len(looks) - 1)] * (len(looks) - 1)))
    bounds = [certified_t(n, a, method) for n, a in zip(looks, schedule.levels, strict=True)]
    for t in np.unique(np.concatenate([bound[np.isfinite(bound)] for bound in bounds])):
        assert fails_with_at_most(AnyLook(looks, [bound >= t for bound in bounds]), t, alpha)


@pytest.mark.parametrize("n", [1, 5, 30])
@pytest.mark.parametrize("level", [0.3, 0.01, 1e-6])
@pytest.mark.parametrize("share", [0.5, 0.03])
def test_the_worst_event_of_any_kind_grows_by_no_more_than_is_charged(n, level, share):
    # Two values of h, of equal size under the bound; the worst event is Neyman's and Pearson's.
    up = 0.02 * math.sqrt((1 - share) / share)
    q = brentq(
        lambda q: (
            q * math.log(q / share) ** 2 + (1 - q) * math.log((1 - q) / (1 - share)) ** 2 - 0.02**2
        ),
        share,
        share * math.exp(min(up, 0.25)),
    )
    assert abs(math.log((1 - q) / (1 - share))) < 0.25 > math.log(q / share)
    counts = np.arange(n + 2)
    exact, drawn = binom.sf(counts - 1, n, share), binom.sf(counts - 1, n, q)
    k = int(np.argmax(exact <= level))  # randomised at the edge, to spend all of the level
    part = (level - exact[k]) / (exact[k - 1] - exact[k])
    worst = drawn[k] + part * (drawn[k - 1] - drawn[k])
    assert worst <= grown(level, n, bend=0.02, largest=0.25, lost=0.0)
    assert worst > level


def test_the_charge_makes_alpha_of_what_grew():
    for size, n, alpha in ((64, 10**4, 0.001), (3072, 10**5, 1e-6), (150_528, 10**6, 0.05)):
        level = charged_alpha(alpha, n, size)
        assert level * math.exp(n_tau(level, n, size)) == pytest.approx(alpha, rel=1e-12)
        assert grown(level, n * size // 2) <= alpha
        assert grown(level * (1 + 1e-12), n * size // 2) > alpha * (1 - 1e-9)


def test_it_costs_little():
    level = charged_alpha(0.001, 100_000, 150_528)
    before, after = joint_lower(90_000, 5_000, 100_000, [0.001, level])
    assert before * (1 - 1e-4) < after < before


def test_what_cannot_be_paid_is_refused_in_a_sentence():
    with pytest.raises(
        ValueError, match="`alpha` = 1e-12 cannot pay for Gaussian noise of 1000000"
    ):
        charged_alpha(1e-12, 10**6, 150_528)
    assert n_tau(1e-12, 10**6, 150_528) > 1
    assert grown(1e-3, 10**17) == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1, 1), r"`alpha` must be in \(0, 1\)"),
        ((0.1, 0, 1), "`n` must be at least 1"),
        ((0.1, 1, 0), "`size` must be at least 1"),
        ((0.1, 1, 2.5), "`size` must be a whole number"),
    ],
)
def test_misuse_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        charged_alpha(*arguments)
