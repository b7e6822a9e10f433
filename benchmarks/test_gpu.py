"""The suite for a GPU rehearses on the CPU, in miniature."""

import pytest

from benchmarks.gpu import Suite, is_right


@pytest.fixture(scope="module")
def suite():
    found = Suite("cpu")
    found.ceilings()
    return found


def test_device_bits_and_twin_bits_are_compared(suite):
    found = suite.bits()
    assert found["elements"] > 100_000
    assert found["differ"] == found["counts_that_differ"] == 0
    assert suite.known_answers()


def test_a_difference_or_an_error_fails_the_suite(suite):
    right = {"known_answers": {"result": True}}
    for differ in (0, 1):
        bits = {"result": {"differ": differ, "counts_that_differ": 0}}
        assert is_right({**right, "bits": bits}) is (differ == 0)
    assert not is_right({**right, "bits": {"error": "out of memory"}})


@pytest.mark.parametrize("part", ["noise", "votes"])
def test_tables_hold_each_shape_with_its_share_of_the_bandwidth(suite, part):
    for row in getattr(suite, part)():
        assert row["ours_microseconds"] > 0
        assert any(name.endswith("bandwidth") and row[name] > 0 for name in row)


def test_launches_are_timed_on_the_host(suite):
    assert suite.launches()["noise_microseconds"] > 0
