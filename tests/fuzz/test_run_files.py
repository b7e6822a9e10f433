"""Run files: a row that is returned is the one that was written, whatever happened to the file."""

import json
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcertify.errors import RunFileError
from tcertify.runs import export_run, read_run, recertify_run, verify_run
from tcertify.runs.file import RunFile
from tests import tiny
from tests.fuzz.mutations import NUMBERS, damaged, values
from tests.runs.forge import forge_columns, forge_head

COLUMNS = (
    *("image_id", "label", "predicted", "radius", "p_a_lower", "p_b_upper", "n", "invalid"),
    *("top", "look", "selection", "looks", "squared_levels", "seconds", "error"),
)


@pytest.fixture(scope="module", params=["certify", "joint"])
def seed(request, tmp_path_factory):
    """The bytes of a run file, its rows, and a path for damaged ones."""
    path = tmp_path_factory.mktemp("runs") / "a.run"
    options = {"method": request.param, "radii": [0.0, 0.25], "n": 2000}
    tiny.certify(path, **(options if request.param == "joint" else {}))
    return path.read_bytes(), tiny.rows_of(path), path.with_name("damaged.run")


def every_way_in(path):
    """Read a file in every way: each returns, or raises a `RunFileError`."""
    for enter in (verify_run, recertify_run):
        try:
            enter(path)
        except RunFileError as error:
            assert str(path) in str(error)
    try:
        table = read_run(path)
    except RunFileError:
        return
    for kind in ("tsv", "csv"):
        export_run(table, path.with_suffix(f".{kind}"), kind)


@given(st.data())
def test_of_a_damaged_file_every_row_that_is_returned_is_the_one_that_was_written(seed, data):
    content, rows, path = seed
    path.write_bytes(data.draw(damaged(content)))
    every_way_in(path)
    try:
        with RunFile(path) as run:
            sound = not run.structure()
            found = {row.image_id: row.record()._replace(seconds=0.0) for row in run.rows()}
            sound = sound and not run.damage
    except RunFileError:
        return
    assert found.items() <= {image: row.record() for image, row in rows.items()}.items()
    assert found.keys() == rows.keys() or not sound


@given(st.data())
def test_a_row_that_is_changed_and_sealed_anew_certifies_no_more_than_its_votes(seed, data):
    content, rows, path = seed
    path.write_bytes(content)
    image, column = data.draw(st.tuples(st.sampled_from([*rows]), st.sampled_from(COLUMNS)))
    stored = getattr(rows[image].record(), column)
    value = data.draw(damaged(stored) if isinstance(stored, bytes) else values())
    try:
        forge_columns(path, image, **{column: value})
    except (OverflowError, TypeError, sqlite3.Error):
        return  # SQLite takes no such value
    every_way_in(path)


@given(st.data())
def test_parameters_that_are_changed_and_sealed_anew_are_read_or_refused(seed, data):
    content, _, path = seed
    path.write_bytes(content)
    with RunFile(path) as run:
        parameters = run.parameters
    name = data.draw(st.sampled_from([*parameters]))
    text = json.dumps(parameters | {name: data.draw(values() | st.lists(values(), max_size=4))})
    if data.draw(st.booleans()):
        text = data.draw(damaged(json.dumps(parameters).encode(), NUMBERS)).decode()
    forge_head(path, parameters=text)
    every_way_in(path)
