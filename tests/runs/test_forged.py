"""Run files as weapons: whatever a file claims, it gets one sentence, and little is read for it."""

import contextlib
import json
import os
import sqlite3
import struct

import numpy as np
import pytest

from tcertify.errors import RunFileError
from tcertify.runs import export_run, read_run, recertify_run, verify_run
from tcertify.runs.file import MAX_PLAN, RunFile, RunWriter
from tcertify.runs.row import pack
from tests.runs.forge import database, forge_columns, forge_head, sealed
from tests.runs.test_file import PARAMETERS, row, writer

#: Not an assertion on speed: what reads without bound takes minutes, or all memory.
pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "a.run"
    with writer(path) as file:
        file.add(row(i) for i in range(5))
    return path


def refused(run, message):
    """Every way into the file is refused with the same sentence."""
    for enter in (read_run, verify_run, recertify_run, RunFile):
        with pytest.raises(RunFileError, match=message):
            enter(run)
    with pytest.raises(RunFileError, match=message):
        writer(run, resume=True)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("[" * 100_000, "parameters of another kind"),
        ('{"a":' * 50_000 + "1" + "}" * 50_000, "parameters of another kind"),
        ("5", "they are no object"),
        ("[]", "they are no object"),
        ("", "parameters of another kind"),
        ('{"sigma": NaN}', "NaN is no number"),
        ('{"sigma": 1, "sigma": 2}', "a name stands twice"),
        ('{"sigma": 1' + "0" * 5000 + "}", "parameters of another kind"),
        ('{"x": "' + "x" * 2**20 + '"}', "no text of at most"),
        (b"{}", "no text of at most"),
        ("{}", "make no sense: `num_classes` is missing"),
    ],
)
def test_parameters_that_are_none_are_refused(run, parameters, message):
    forge_head(run, parameters=parameters)
    refused(run, message)


def test_200_mb_of_parameters_are_not_read(run):
    with database(run) as db:
        db.execute("UPDATE run SET parameters = CAST(zeroblob(200000000) AS TEXT)")
    refused(run, "too big")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"looks": [*range(1, 100_000)]}, "`looks` must be at most 10000 numbers"),
        ({"num_classes": 2**24}, "`num_classes` = 16777216 .* takes more than"),
        ({"sigma": 10**400}, "`sigma` must be a number"),
        ({"sigma": 0}, "`sigma` must be positive"),
        ({"looks": [2**40]}, "`n` must be at most"),
        ({"noise": "laplace"}, "`noise` is 'laplace', which this version does not know"),
        ({"method": {"joint": 1}}, "`method` must be one of"),
        ({"radii": [1e400]}, "another kind|make no sense"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(run, change, message):
    forge_head(run, parameters=json.dumps(PARAMETERS | change))
    refused(run, message)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (b"no zlib", "cannot be unpacked"),
        ("[0]", "the plan is no list of images"),
        (pack(np.zeros(MAX_PLAN + 1, np.int64)), "at most"),
        (pack(np.array([1, 1])), "an image twice"),
        (pack(np.array([-1])), "one that there cannot be"),
        (pack(np.array([2**32])), "one that there cannot be"),
    ],
)
@pytest.mark.parametrize("column", ["plan", "whole"])
def test_a_plan_that_is_none_is_refused(run, column, plan, message):
    forge_head(run, **{column: plan})
    refused(run, message)


def test_two_heads_are_refused(run):
    with database(run) as db:
        head = db.execute("SELECT * FROM run").fetchone()
        marks = ", ".join("?" * len(head))
        db.execute(f"INSERT INTO run VALUES ({marks})", sealed([2, *head[1:-1]]))
    refused(run, "its parameters cannot be read")


def test_no_head_is_refused(run):
    with database(run) as db:
        db.execute("DELETE FROM run")
    refused(run, "its parameters cannot be read")


ENDLESS = "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) SELECT x FROM t"


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE more (x)",
        "CREATE INDEX more ON certificate (label)",
        f"CREATE VIEW more AS {ENDLESS}",
        "CREATE TRIGGER more AFTER INSERT ON certificate BEGIN DELETE FROM warning; END",
        "ALTER TABLE certificate ADD COLUMN more",
        "DROP TABLE warning",
    ],
)
def test_other_tables_are_refused(run, statement):
    with database(run) as db:
        db.execute(statement)
    refused(run, "has other tables")


@pytest.mark.parametrize("table", ["run", "certificate", "warning"])
def test_a_view_that_never_ends_under_the_name_of_a_table_is_refused(run, table):
    with database(run) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute(
            "INSERT INTO sqlite_schema VALUES ('view', ?, ?, 0, ?)",
            (table, table, f"CREATE VIEW {table} AS {ENDLESS}"),
        )
        rows = db.execute("SELECT * FROM sqlite_schema").fetchall()
        db.execute("DELETE FROM sqlite_schema")  # the view first, the table after it
        db.executemany("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", [rows[-1], *rows[:-1]])
    refused(run, r"has other tables|malformed")


@pytest.mark.parametrize(
    ("position", "value"), [(18, b"\x63"), (19, b"\x63"), (56, struct.pack(">I", 2))]
)
def test_another_version_or_encoding_of_sqlite_is_refused(run, position, value):
    content = bytearray(run.read_bytes())
    content[position : position + len(value)] = value
    run.write_bytes(content)
    refused(run, "another version or text encoding of SQLite")


def test_a_database_in_utf_16_is_refused(tmp_path):
    path = tmp_path / "a.run"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA encoding = 'UTF-16le'")
        db.execute(f"PRAGMA application_id = {int.from_bytes(b'tcrf')}")
        db.execute("PRAGMA user_version = 1")
        db.execute("CREATE TABLE run (x)")
    refused(path, "another version or text encoding of SQLite")


def test_another_format_and_the_unreleased_one_are_named(run):
    with database(run) as db:
        db.execute("PRAGMA user_version = 99")
    refused(run, "has the format 99; this version reads 1")
    with database(run) as db:
        db.execute(f"PRAGMA application_id = {int.from_bytes(b'tcrt')}")
        db.execute("PRAGMA user_version = 1")
    refused(run, "a run file of an unreleased format")


def test_rows_that_unpack_to_more_than_their_classes_take_are_not_unpacked(run):
    forge_columns(run, 3, looks=pack(np.zeros(2**24, np.int64)))
    with RunFile(run) as file:
        assert [row.image_id for row in file.rows()] == [0, 1, 2, 4]
        assert file.damage == [
            "The row of image 3 holds no votes: it does not hold at most 4 numbers."
        ]


def test_many_and_long_warnings_are_bounded(run):
    with database(run) as db:
        db.execute("BEGIN")
        db.executemany("INSERT INTO warning VALUES (?)", [(f"{i}",) for i in range(5000)])
        db.execute("INSERT INTO warning VALUES (?)", ("!" * 10**6,))
        db.execute("COMMIT")
    warnings = read_run(run).warnings
    assert len(warnings) <= 1000
    assert max(map(len, warnings)) <= 10_000


def test_a_forged_row_that_is_no_row_is_not_exported(run, tmp_path):
    forge_columns(run, 3, seconds=1e300)
    export_run(read_run(run), tmp_path / "a.tsv")
    assert len((tmp_path / "a.tsv").read_text().splitlines()) == 5


def test_pages_that_repeat_the_table_of_certificates_end_the_reading(tmp_path):
    """Inner pages that name one child a hundred times over would be read a hundred times over."""
    path = tmp_path / "a.run"
    with writer(path) as file:
        file.add(row(i) for i in range(400))
    content = bytearray(path.read_bytes())
    pages = [at for at in range(4096, len(content), 4096) if content[at] == 5]
    assert pages
    for at in pages:
        cells = int.from_bytes(content[at + 3 : at + 5])
        first = int.from_bytes(content[at + 12 : at + 14])
        for cell in range(cells):
            content[at + 12 + 2 * cell : at + 14 + 2 * cell] = first.to_bytes(2)
    path.write_bytes(content)
    report = verify_run(path)
    assert report.findings
    assert report.verified <= 400


def test_a_folder_a_pipe_and_a_device_are_no_run_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(RunFileError, match=r"not a run file|Is a directory"):
            RunFile(path)
    with pytest.raises(RunFileError, match="not a run file"):
        RunWriter(tmp_path / "pipe", PARAMETERS, {}, [0])
