"""Run files: a row that is returned is the one that was written, whatever happened to the file."""

import json
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcertify.errors import RunFileError
from tcertify.runs import export_run, merge_runs, read_run, recertify_run, verify_run
from tcertify.runs.file import RunFile
from tests.fuzz.mutations import NUMBERS, damaged, values
from tests.runs.forge import forge_columns, forge_head
from tests.runs.test_file import PARAMETERS, row, writer

ROWS = {i: row(i) for i in range(10)}
COLUMNS = [*row(0).record()._fields]
VOTES = row(0).record().looks


def written():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.run"
        with writer(path) as file:
            file.add(ROWS.values())
        return path.read_bytes()


CONTENT = written()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "a.run"


def every_way_in(path):
    """Read a file in every way: each returns, or raises a `RunFileError`."""
    for enter in (verify_run, recertify_run):
        try:
            enter(path)
        except RunFileError as error:
            assert str(path) in str(error)
    merged, sound = path.with_suffix(".merged"), path.with_suffix(".sound")
    sound.write_bytes(CONTENT)
    for other in (path, sound):
        try:
            merge_runs([other, path], merged)
            merged.unlink()
        except RunFileError as error:
            assert str(path) in str(error) or str(merged) in str(error)
    try:
        table = read_run(path)
    except RunFileError:
        return
    for kind in ("tsv", "csv"):
        export_run(table, path.with_suffix(f".{kind}"), kind)


@given(damaged(CONTENT))
def test_of_a_damaged_file_every_row_that_is_returned_is_the_one_that_was_written(path, content):
    path.write_bytes(content)
    every_way_in(path)
    try:
        with RunFile(path) as run:
            sound = not run.structure()
            found = {row.image_id: row for row in run.rows()}
            sound = sound and not run.damage
    except RunFileError:
        return
    assert all(ROWS[image] == row for image, row in found.items())
    assert found.keys() == ROWS.keys() or not sound


@given(
    st.tuples(st.sampled_from(COLUMNS), values())
    | st.tuples(st.sampled_from(["selection", "looks"]), damaged(VOTES))
)
def test_a_row_that_is_changed_and_sealed_anew_is_read_or_named(path, change):
    path.write_bytes(CONTENT)
    try:
        forge_columns(path, 3, **dict([change]))
    except (OverflowError, TypeError, sqlite3.Error):
        return  # SQLite takes no such value
    every_way_in(path)


@given(
    st.dictionaries(
        st.sampled_from(sorted(PARAMETERS)), values() | st.lists(values(), max_size=4), max_size=2
    ).map(lambda changes: json.dumps(PARAMETERS | changes))
    | damaged(json.dumps(PARAMETERS).encode(), NUMBERS).map(bytes.decode)
)
def test_parameters_that_are_changed_and_sealed_anew_are_read_or_refused(path, parameters):
    path.write_bytes(CONTENT)
    forge_head(path, parameters=parameters)
    every_way_in(path)
