"""Rows: small in the file, the same when they are read, and never other votes than a run casts."""

import math
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcertify.runs.row import Row, decode_votes, encode_votes, pack, storable, unpack
from tcertify.runs.settings import Settings
from tcertify.statistics.stopping import Schedule

SETTINGS = Settings.make(num_classes=3, sigma=0.5, n0=10, n=100, alpha=0.001, method="certify")


def row(**changes):
    plain = Row(
        image_id=7,
        label=2,
        predicted=2,
        radius=0.5,
        p_a_lower=0.9,
        p_b_upper=0.1,
        top=2,
        look=0,
        selection=np.array([1, 0, 9, 0]),
        looks=np.array([[2, 0, 97, 1]]),
        seconds=0.25,
    )
    return replace(plain, **changes)


def test_a_row_is_the_same_after_the_file():
    record = row().record()
    assert Row.from_record(record, SETTINGS) == row()
    assert (record.n, record.invalid) == (100, 1)
    assert row() != row(looks=np.array([[3, 0, 96, 1]]))


@given(
    st.lists(st.lists(st.integers(0, 2**40), min_size=4, max_size=4), max_size=6),
)
def test_votes_survive_their_encoding(added):
    looks = np.array(added, np.int64).reshape(-1, 4).cumsum(0)
    decoded = decode_votes(encode_votes(looks), 3, most=6)
    assert decoded.dtype == np.int64
    np.testing.assert_array_equal(decoded, looks)


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_whole_numbers_survive_packing(values):
    assert unpack(pack(np.array(values, np.int64)), most=len(values)).tolist() == values


@pytest.mark.parametrize("rival", ["uniform", "heavy-tailed", "few"])
def test_a_row_of_1000_classes_and_73_looks_stays_below_20_kb(rival):
    """Votes of an image whose other classes are as even, or as uneven, as they come."""
    schedule = Schedule.geometric(100_000, 0.001)
    assert len(schedule.looks) == 73
    shares = {
        "uniform": np.ones(1000),
        "heavy-tailed": 1 / np.arange(1, 1001),
        "few": 1 / np.arange(1.0, 1001) ** 2,
    }[rival]
    draw = np.random.default_rng(0)
    steps = np.diff([0, *schedule.looks])
    added = np.array([draw.multinomial(step, shares / shares.sum()) for step in steps])
    looks = np.pad(draw.permuted(added.T, axis=0).T.cumsum(0), ((0, 0), (0, 1)))
    size = len(encode_votes(looks)) + len(encode_votes(looks[:1]))
    assert size < 20_000
    np.testing.assert_array_equal(decode_votes(encode_votes(looks), 1000, most=73), looks)


def forged(values):
    return pack(np.array(values, np.int64))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no zlib",
        forged([1, 2, 3]),
        forged([1, 2, 3, -1]),
        forged([2**53, 2**53, 0, 0]),
        forged([2**63 - 1] * 4),
        forged([1] * 12),
        forged([1, 2, 3, 4])[:-3],
        forged([1, 2, 3, 4]) + b"more",
        zlib.compress(bytes(2**24)),
        zlib.compress(bytes(33)),
    ],
)
def test_what_are_no_votes_is_an_error(content):
    with pytest.raises(ValueError, match=r"votes|unpacked|numbers|ends too"):
        decode_votes(content, 3, most=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"looks": np.array([[2, 0, 96, 1]])}, "do not sum to the samples of the looks"),
        ({"looks": np.zeros((0, 4), np.int64)}, "votes at 0 looks"),
        ({"looks": np.full((2, 4), 25)}, "votes at 2 looks"),
        ({"look": 1}, "look 1 gives the certificate"),
        ({"look": -7}, "look -7 gives the certificate"),
        ({"selection": np.array([1, 0, 8, 0])}, "do not sum to n0 = 10"),
        ({"selection": np.array([9, 0, 1, 0])}, "class 2 is not the one"),
        ({"top": 1}, "class 1 is not the one"),
        ({"error": "broken"}, "it failed, and yet it is certified"),
        ({"squared_levels": 5}, "`squared_levels` is 5, but its radius 0.5 gives None"),
    ],
)
def test_votes_that_a_run_does_not_cast_are_an_error(changes, message):
    row().check(SETTINGS)
    with pytest.raises(ValueError, match=message):
        row(**changes).check(SETTINGS)


def test_squared_levels_are_what_the_radius_says_in_integers():
    settings = replace(SETTINGS, noise="integer", levels=16)
    row(radius=0.5, squared_levels=63).check(settings)  # 8 levels squared are not inside
    row(radius=math.nextafter(0.5, 1), squared_levels=64).check(settings)
    for wrong in (None, 62, 64):
        with pytest.raises(ValueError, match=f"is {wrong}, but its radius 0.5 gives 63"):
            row(radius=0.5, squared_levels=wrong).check(settings)
    Row.failed(3, 1, "broken", 3).check(settings)


def test_an_image_that_failed_certifies_nothing_and_has_no_votes():
    failed = Row.failed(3, 1, "broken", 3)
    failed.check(SETTINGS)
    assert (failed.predicted, failed.radius, failed.n, failed.invalid) == (-1, 0, 0, 0)
    assert Row.from_record(failed.record(), SETTINGS) == failed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_id", 2**32),
        ("label", -5),
        ("label", 3),
        ("predicted", 3),
        ("predicted", -2),
        ("radius", -0.5),
        ("radius", float("inf")),
        ("radius", float("nan")),
        ("p_a_lower", 1.5),
        ("p_b_upper", -0.1),
        ("top", 3),
        ("look", -1),
        ("seconds", 1e300),
        ("seconds", -1.0),
        ("squared_levels", -1),
    ],
)
def test_what_no_row_can_hold_is_named(name, value):
    assert row().record().defect(3) is None
    assert row(**{name: value}).record().defect(3) == f"`{name}` is {value!r}"


def test_texts_that_no_file_can_hold_are_made_storable():
    assert storable("caf\udce9") == "caf\\udce9"
    assert len(storable("x" * 10**6)) == 2000
