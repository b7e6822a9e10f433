import itertools
import re

import numpy as np
import pytest
from scipy import stats

from tcertify.certificates import certify_counts, certify_votes
from tcertify.statistics.reported import certify_reported
from tcertify.votes import Votes

N, ALPHA = 25, 0.1
VOTES = np.stack([np.arange(N + 1), N - np.arange(N + 1)], axis=-1)


def radii_at(level, method="joint"):
    zeros = np.zeros(N + 1, dtype=int)
    return certify_counts(VOTES, zeros, sigma=1.0, alpha=level, method=method).radius


def share_wrong(kept, wrong):
    """The expected share of wrong ones among the kept of three images, from P(kept) of each and
    wrong[r - 1] = P(kept, and wrong at the level of r kept ones) of each.
    """
    total = 0.0
    for one, others in ((0, (1, 2)), (1, (0, 2)), (2, (0, 1))):
        a, b = (kept[other] for other in others)
        for r, chance in enumerate(((1 - a) * (1 - b), a * (1 - b) + b * (1 - a), a * b), start=1):
            total = total + chance * wrong[r - 1][one] / r
    return total


class Edges:
    """P(kept) and P(kept and wrong) of one image of two classes, for every p_A.

    A certificate of k votes is wrong for p_A below Phi of its radius; between two such edges only
    the probability of the same outcomes changes, and it grows with p_A.
    """

    def __init__(self, radius, levels, method, cells=90):
        keeps = (radii_at(ALPHA, method) > 0) & (radii_at(ALPHA, method) >= radius)
        found = [np.where(keeps, radii_at(level, method), 0.0) for level in levels]
        edges = np.concatenate([stats.norm.cdf(r[r > 0]) for r in found])
        p = np.unique([*np.linspace(0, 1, cells), *edges])
        self.low = np.array([mass[keeps].sum() for mass in masses(p[:-1])])
        self.high = np.array([mass[keeps].sum() for mass in masses(p[1:])])
        self.wrong = [
            np.array(
                [
                    mass[(r > 0) & (stats.norm.cdf(r) >= top)].sum()
                    for mass, top in zip(masses(p[1:]), p[1:], strict=True)
                ]
            )
            for r in found
        ]


def masses(p):
    return stats.binom.pmf(np.arange(N + 1), N, p[:, None])


@pytest.mark.parametrize("radius", [0.0, 0.5])
@pytest.mark.parametrize("method", ["joint", "certify", "t-certify"])
def test_the_share_of_wrong_certificates_among_the_kept_is_at_most_alpha(method, radius):
    # Three images, every (p_1, p_2, p_3): bounded on each box of edges, where the share is linear
    # in each P(kept), so that its corners are enough.
    edges = Edges(radius, [ALPHA / 3, ALPHA * 2 / 3, ALPHA], method)
    wrong = [np.ix_(w, w, w) for w in edges.wrong]
    corners = itertools.product((edges.low, edges.high), repeat=3)
    assert max(share_wrong(np.ix_(*corner), wrong).max() for corner in corners) <= ALPHA
    highest = np.ix_(edges.high, edges.high, edges.high)  # are attained, from below
    assert share_wrong(highest, wrong).max() > 0.95 * ALPHA


def test_without_the_correction_the_share_is_far_larger():
    edges = Edges(0.5, [ALPHA] * 3, "joint")
    wrong = [np.ix_(w, w, w) for w in edges.wrong]
    highest = np.ix_(edges.high, edges.high, edges.high)
    assert share_wrong(highest, wrong).max() == pytest.approx(0.2708, abs=1e-4)


# --- what is kept, and at which level ---------------------------------------------------------

SOME = Votes.of([[990, 10], [950, 50], [700, 300], [300, 700], [20, 980]], [0, 0, 0, 0, 1])


def alone(votes=SOME, *, alpha=0.001, method="joint"):
    return certify_votes(votes, sigma=0.5, alpha=alpha, method=method)


@pytest.mark.parametrize("method", ["joint", "certify", "t-certify"])
def test_the_kept_are_certified_at_alpha_times_their_share(method):
    each = alone(alpha=0.01, method=method)
    found = certify_reported(SOME, each, 0.5)
    assert found.kept.tolist() == (each.radius >= 0.5).tolist() == [True, True, False, False, True]
    assert found.level == 0.01 * 3 / 5
    again = alone(alpha=found.level, method=method)
    np.testing.assert_array_equal(found.certificates.radius, again.radius[found.kept])
    assert (found.certificates.alpha, found.alpha) == (found.level, 0.01)


def test_radius_zero_keeps_what_is_certified_and_labels_what_is_right():
    assert certify_reported(SOME, alone()).kept.tolist() == [True, True, True, False, True]
    right = certify_reported(SOME, alone(), label=[0, 1, 0, 0, 1])
    assert right.kept.tolist() == [True, False, True, False, True]


def test_all_kept_leaves_alpha_as_it_is_and_none_kept_reports_nothing():
    assert certify_reported(SOME[:2], alone(SOME[:2], alpha=0.01)).level == 0.01
    none = certify_reported(SOME, alone(), 9.0)
    assert not none.kept.any()
    assert len(none.certificates) == 0


LOOKS_AT_OTHERS = (
    "`radius` must be one number, at least 0, that each image reaches or misses by its own votes,"
    " got {}: a rule that looks at other images has no guarantee."
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": "top 10"}, LOOKS_AT_OTHERS.format("'top 10'")),
        ({"radius": [0.5, 0.25]}, LOOKS_AT_OTHERS.format("[0.5, 0.25]")),
        ({"radius": np.inf}, LOOKS_AT_OTHERS.format("inf")),
        ({"label": [0, 1]}, "`label` must have shape (5,), got (2,)."),
        ({"label": [0, 1, 2, 0, 0]}, "`label` must be at most 1, got 2."),
        ({"votes": Votes.of([5, 3], 0)}, "`votes` must have shape (M,), got ()."),
        (
            {"votes": SOME[:2]},
            "`certificates` must be those of `votes`, got other numbers of samples.",
        ),
    ],
)
def test_misuse_is_named(change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        certify_reported(**({"votes": SOME, "certificates": alone()} | change))
