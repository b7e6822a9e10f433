"""Format 1: a file that was written once is read by every version, as docs/run-file.md says."""

import contextlib
import json
import re
import sqlite3
import zlib
from pathlib import Path

import numpy as np
import pytest

from tcertify.runs import read_run, verify_run
from tcertify.runs.file import RunFile

STORED = Path(__file__).parents[1] / "data" / "format-1.run"
PAGE = Path(__file__).parents[2] / "docs" / "run-file.md"


def test_a_stored_file_of_format_1_is_read_and_verified():
    table = read_run(STORED)
    assert table.image_id.tolist() == [0, 1, 2, 3, 4, 5]
    assert table.label.tolist() == [0, 1, 2, 0, 1, 2]
    assert table.predicted.tolist() == [0, 1, 2, 0, -1, 2]
    assert table.radius.tolist() == [
        0.2493973462692685,
        0.25412228707300244,
        0.2366214486211719,
        0.24862356805599514,
        0.0,
        0.004481289394273534,
    ]
    assert table.n.tolist() == [500, 236, 500, 500, 0, 163]
    assert table.errors == {4: "its pixels are NaN or infinite"}
    assert (table.warnings, table.missing, table.damage) == (("A warning.",), 2, ())
    assert (table.settings.method, table.settings.radii) == ("joint", (0.0, 0.25))
    report = verify_run(STORED)
    assert (report.verified, report.failed, report.missing, report.findings) == (6, 1, 2, ())


def test_the_votes_of_the_stored_file_are_what_they_were():
    with RunFile(STORED) as run:
        rows = [*run.rows()]
        assert (run.plan, run.whole) == ([*range(8)], [*range(9)])
    assert (rows[1].top, rows[1].look, rows[1].selection.tolist()) == (1, 9, [3, 13, 4, 0])
    assert rows[1].looks[:3].tolist() == [[14, 77, 12, 0], [16, 82, 15, 0], [17, 92, 15, 0]]
    assert rows[1].looks[-1].tolist() == [31, 174, 31, 0]


def read_without_this_package(content, classes):
    """Votes as a reader takes them who knows nothing but docs/run-file.md."""
    planes = np.frombuffer(zlib.decompress(content), np.uint8).reshape(8, -1)
    added = np.ascontiguousarray(planes.T).view("<i8").reshape(-1, classes + 1)
    return added.cumsum(0)


def test_the_page_is_enough_to_read_the_votes():
    with contextlib.closing(sqlite3.connect(f"{STORED.as_uri()}?mode=ro", uri=True)) as db:
        (parameters,) = db.execute("SELECT parameters FROM run").fetchone()
        classes = json.loads(parameters)["num_classes"]
        stored = dict(db.execute("SELECT image_id, looks FROM certificate"))
    with RunFile(STORED) as run:
        for row in run.rows():
            votes = read_without_this_package(stored[row.image_id], classes)
            np.testing.assert_array_equal(votes, row.looks)


def test_the_page_describes_every_table_as_it_is():
    described = re.findall(r"```sql\n(.*?)\n```", PAGE.read_text(), re.DOTALL)
    with contextlib.closing(sqlite3.connect(f"{STORED.as_uri()}?mode=ro", uri=True)) as db:
        tables = [sql for (sql,) in db.execute("SELECT sql FROM sqlite_schema WHERE sql <> ''")]
    assert "".join(described).replace(";", "") == "\n".join(tables)


@pytest.mark.parametrize(
    "parameter", ["noise", "levels", "look_levels", "charge_noise", "probe", "tf32_of_torch"]
)
def test_the_page_names_what_is_new_among_the_parameters(parameter):
    with RunFile(STORED) as run:
        assert parameter in run.parameters
    assert f"`{parameter}`" in PAGE.read_text()
