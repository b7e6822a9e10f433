import itertools
import re

import numpy as np
import pytest
from scipy.special import ndtri

from tcertify.certificates import certify_counts
from tcertify.statistics.groups import Groups, parse_groups
from tests.reference import trinomial

PAIRED = Groups.of({"left": [0, 2], "right": [3]}, 4)


def all_counts(n, classes):
    """Every vote of n samples, shape (M, classes)."""
    some = itertools.product(range(n + 1), repeat=classes - 1)
    return np.array([(*row, n - sum(row)) for row in some if sum(row) <= n])


def test_votes_and_labels_are_those_of_the_relabelled_classifier():
    answers = np.random.default_rng(0).integers(0, 4, (5, 200))
    counts = np.stack([np.bincount(row, minlength=4) for row in answers])
    relabelled = PAIRED.labels(answers)
    again = np.stack([np.bincount(row, minlength=len(PAIRED)) for row in relabelled])
    np.testing.assert_array_equal(PAIRED.votes(counts), again)
    assert PAIRED.names == ("left", "right", "1")
    assert PAIRED.labels([0, 1, 2, 3]).tolist() == [0, 2, 0, 1]


def test_the_votes_of_groups_are_distributed_as_the_relabelled_classifier_votes():
    n, p = 6, np.array([0.4, 0.3, 0.2, 0.1])
    counts, grouped = all_counts(n, 4), all_counts(n, 3)
    mass = trinomial(counts, p)
    expected = trinomial(grouped, [p[0] + p[2], p[3], p[1]])
    for row, probability in zip(grouped, expected, strict=True):
        same = (PAIRED.votes(counts) == row).all(-1)
        assert mass[same].sum() == pytest.approx(probability, rel=1e-12)


def test_without_groups_nothing_changes():
    plain = Groups.of({}, 3)
    assert plain.names == ("0", "1", "2")
    np.testing.assert_array_equal(plain.votes([[1, 2, 3]]), [[1, 2, 3]])


def test_groups_chosen_after_a_look_at_the_votes_fail_more_often_than_alpha():
    # Class 0 is joined with whichever other class makes the larger radius. Fixed, either group is
    # certified falsely with probability at most alpha.
    n, alpha, p = 24, 0.1, np.array([0.2, 0.4, 0.4])
    counts = all_counts(n, 3)
    mass, zeros = trinomial(counts, p), np.zeros(len(counts), dtype=int)
    true_radius = (ndtri(0.6) - ndtri(0.4)) / 2
    wrong = []
    for other in (1, 2):
        votes = Groups.of({"pair": [0, other]}, 3).votes(counts)
        wrong.append(certify_counts(votes, zeros, sigma=1.0, alpha=alpha).radius > true_radius)
    assert mass[wrong[0]].sum() == pytest.approx(0.09596, abs=1e-5)
    assert mass[wrong[0] | wrong[1]].sum() == pytest.approx(0.1916, abs=1e-4)


def test_groups_are_read_from_texts():
    groups = Groups.of(parse_groups(["animals=2,3,4", "machines=0,1"]), 6)
    assert groups.names == ("animals", "machines", "5")
    assert groups.index.tolist() == [1, 1, 0, 0, 0, 2]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"a": [0, 1], "b": [1]}, "`groups` must not overlap, got class 1 in a and b."),
        ({"a": [0, 0]}, "`groups` must not overlap, got class 0 in a and a."),
        ({"a": [0, 4]}, "`groups` must name classes from 0 to 3, got 4 in a."),
        ({"a": [-1]}, "`groups` must name classes from 0 to 3, got -1 in a."),
        ({"a": []}, "`groups` must name at least one class in a, got none."),
        (
            {"a": [0, 1, 2, 3]},
            "`groups` must leave at least 2 labels, got one group of all classes.",
        ),
    ],
)
def test_groups_that_make_no_sense_are_named(groups, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Groups.of(groups, 4)


@pytest.mark.parametrize("text", ["animals", "animals=", "=1,2", "animals=cat", "animals=1;2"])
def test_a_text_that_is_no_group_is_named(text):
    message = f"`groups` must be like animals=2,3,4, got {text!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse_groups([text])


def test_other_misuse_is_named():
    with pytest.raises(ValueError, match=r"^`groups` must have different names, got a twice\.$"):
        parse_groups(["a=0", "a=1"])
    with pytest.raises(ValueError, match=r"^`counts` must have 4 classes, got shape \(1, 3\)\.$"):
        PAIRED.votes([[1, 2, 3]])
    with pytest.raises(ValueError, match=r"^`labels` must be at most 3, got 4\.$"):
        PAIRED.labels([4])
