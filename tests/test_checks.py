"""Argument checks: what they accept and the sentence they refuse the rest with."""

import numpy as np
import pytest

from tcertify import _checks


@pytest.mark.parametrize("value", [1, np.int64(7), 2**53])
def test_whole_numbers_are_accepted(value):
    assert _checks.check_whole("n", value) == int(value)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, np.True_, "10", None, 2**53 + 1, [3]])
def test_what_is_no_count_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"^`n` must be "):
        _checks.check_whole("n", value)


@pytest.mark.parametrize("value", ["wide", True, b"1", None, [1.0], object()])
def test_what_is_no_number_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"^`sigma` must be a number"):
        _checks.check_positive("sigma", value)


@pytest.mark.parametrize("value", [["a"], [True], [None], [1j]])
def test_arrays_of_anything_else_are_refused(value):
    with pytest.raises(ValueError, match="`k` must be numbers"):
        _checks.check_whole_array("k", value)


def test_counts_above_the_exact_floats_are_refused():
    with pytest.raises(ValueError, match="`k` must be at most 9007199254740992"):
        _checks.check_whole_array("k", [2**53 + 1])
    assert _checks.check_whole_array("k", [2.0**53]).tolist() == [2**53]


def test_shapes_that_do_not_broadcast_are_named():
    with pytest.raises(ValueError, match=r"`k` \(2,\), `n` \(3,\)"):
        _checks.check_broadcast(k=np.zeros(2), n=np.zeros(3))


def test_numbers_below_0_and_what_is_infinite_are_refused_where_radii_are_asked_for():
    assert _checks.check_non_negatives("radii", [0, 0.5]).tolist() == [0.0, 0.5]
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"^`radii` must be at least 0 and finite, got "):
            _checks.check_non_negatives("radii", [0.5, bad])


@pytest.mark.parametrize("value", ["magic", None, 3, ["joint"]])
def test_a_choice_that_is_not_offered_is_refused_with_those_that_are(value):
    assert _checks.check_choice("method", "joint", ("joint", "certify")) == "joint"
    with pytest.raises(ValueError, match=r"^`method` must be one of joint, certify, got "):
        _checks.check_choice("method", value, ("joint", "certify"))
