"""Options that commands share."""

from datetime import timedelta

import click
import pytest

from tcertify.certificates import METHODS
from tcertify.classifiers.standardise import CONSTANTS
from tcertify.cli import options
from tcertify.data.by_name import NAMES


def test_the_methods_are_those_that_certify():
    assert options.METHODS == METHODS


def test_the_names_that_complete_are_those_that_load():
    assert options.DATASETS == NAMES
    assert (*CONSTANTS,) == options.CONSTANTS


def test_radii_are_numbers_between_commas():
    assert options.Radii().convert("0, 0.5,1e0", None, None) == [0.0, 0.5, 1.0]
    with pytest.raises(click.BadParameter, match="separated by commas"):
        options.Radii().convert("0;1", None, None)


def test_data_options_load_a_data_set():
    wanted = options.DataOptions("tests.tiny:images", "test", None, None, None, None)
    assert len(wanted.load()) == 12


def test_a_shard_is_two_numbers():
    assert options.Shard().convert("2/8", None, None) == (2, 8)
    assert options.Shard().convert((2, 8), None, None) == (2, 8)
    with pytest.raises(click.BadParameter, match="I/N with I from 1 to N, got '9/8'"):
        options.Shard().convert("9/8", None, None)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("5000", 5000),
        ("5e6", 5_000_000),
        ("90s", timedelta(seconds=90)),
        ("45m", timedelta(minutes=45)),
        ("1.5h", timedelta(hours=1.5)),
    ],
)
def test_a_budget_is_samples_or_a_time(text, found):
    assert options.Budget().convert(text, None, None) == found
    assert options.Budget().convert(found, None, None) == found


@pytest.mark.parametrize("text", ["", "h", "2 days", "2.5", "1e999", "1e999h", "nan", "nanh"])
def test_a_budget_that_is_neither_is_refused(text):
    with pytest.raises(click.BadParameter, match="number of samples, such as 5e6, or a time"):
        options.Budget().convert(text, None, None)
