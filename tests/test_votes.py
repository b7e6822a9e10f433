import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcertify import Votes

COUNTS = [[5, 90, 3], [7, 1, 60]]


def test_the_votes_of_the_top_class_and_of_its_strongest_rival_are_told_apart():
    votes = Votes.of(COUNTS, [1, 0], [2, 0])
    assert votes.n.tolist() == [100, 68]
    assert votes.k_a.tolist() == [90, 7]
    assert votes.k_b.tolist() == [5, 60]
    assert votes.others.tolist() == [[5, 3], [1, 60]]


def test_columns_hold_the_classes_and_then_the_invalid_votes():
    votes = Votes.of(COUNTS, [1, 0], [2, 0])
    assert votes.columns.tolist() == [[5, 90, 3, 2], [7, 1, 60, 0]]
    again = Votes.from_columns(votes.columns, votes.top)
    for name in ("counts", "top", "invalid", "n", "k_a", "k_b"):
        np.testing.assert_array_equal(getattr(again, name), getattr(votes, name))


def test_one_input_has_arrays_without_axes():
    votes = Votes.of([5, 90, 3], 1)
    for name in ("top", "invalid", "n", "k_a", "k_b"):
        assert isinstance(getattr(votes, name), np.ndarray)
        assert getattr(votes, name).shape == ()
    assert (votes.k_a, votes.k_b, votes.invalid) == (90, 5, 0)


def test_a_part_of_the_inputs_keeps_class_and_invalid_votes_beside_the_counts():
    votes = Votes.of(COUNTS, [1, 0], [2, 0])
    assert len(votes) == 2
    assert votes[0].columns.tolist() == [5, 90, 3, 2]
    assert votes[[False, True]].k_a.tolist() == [7]
    assert len(votes[:0]) == 0
    assert votes[:0].k_b.shape == (0,)


@given(st.data())
def test_every_vote_is_of_the_top_class_of_another_or_invalid(data):
    classes = data.draw(st.integers(2, 6))
    counts = data.draw(st.lists(st.integers(0, 50), min_size=classes, max_size=classes))
    top, invalid = data.draw(st.integers(0, classes - 1)), data.draw(st.integers(1, 5))
    votes = Votes.of(counts, top, invalid)
    assert votes.n == votes.k_a + votes.others.sum() + votes.invalid
    assert votes.k_a == counts.pop(top)
    assert votes.k_b == max(counts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([-1, 5], 0), "`counts` must be at least 0, got -1."),
        (([0.5, 5], 0), "`counts` must be whole numbers, got 0.5."),
        ((["a", "b"], 0), "`counts` must be numbers, got ['a', 'b']."),
        ((7, 0), "`counts` must have at least 2 classes, got shape ()."),
        (([7], 0), "`counts` must have at least 2 classes, got shape (1,)."),
        (([0, 0], 0), "`counts` must hold at least one vote each, got a sum of 0."),
        (([2**53] * 2048, 0), "`counts` must sum to at most 9007199254740992, got 1844"),
        (([9, 5], 2), "`top` must be at most 1, got 2."),
        (([9, 5], -1), "`top` must be at least 0, got -1."),
        (([9, 5], [0, 0]), "`top` must have shape (), got (2,)."),
        (([9, 5], 0, -1), "`invalid` must be at least 0, got -1."),
        (([9, 5], 0, [1, 2]), "`invalid` must have shape (), got (2,)."),
    ],
)
def test_what_cannot_be_votes_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Votes.of(*arguments)


@pytest.mark.parametrize(("shape", "top"), [((4, 2), (4,)), ((4, 3), (3,)), ((), ())])
def test_columns_that_cannot_hold_two_classes_and_the_invalid_votes_are_refused(shape, top):
    with pytest.raises(ValueError, match=re.escape(f"Votes of shape {shape} are not")):
        Votes.from_columns(np.ones(shape, int), np.zeros(top, int))
