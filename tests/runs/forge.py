"""Forged run files: changed, and sealed anew with the checksums that docs/run-file.md describes."""

import contextlib
import hashlib
import json
import sqlite3

from tcertify.runs.file import RunFile


def sealed(values):
    text = json.dumps([v.hex() if isinstance(v, bytes) else v for v in values])
    return [*values, hashlib.blake2b(text.encode(), digest_size=8).hexdigest()]


@contextlib.contextmanager
def database(path):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        yield db


def _rewrite(path, table, key, changes):
    with database(path) as db:
        cursor = db.execute(f"SELECT * FROM {table} WHERE {key}")
        values = dict(zip([c[0] for c in cursor.description], cursor.fetchone(), strict=True))
        values |= changes
        del values["checksum"]
        marks = ", ".join("?" * (len(values) + 1))
        db.execute(f"DELETE FROM {table} WHERE {key}")
        db.execute(f"INSERT INTO {table} VALUES ({marks})", sealed([*values.values()]))


def forge_columns(path, image, **columns):
    """Put other values into the columns of a row."""
    _rewrite(path, "certificate", f"image_id = {image}", columns)


def forge_row(path, image_id, change):
    """Put a changed `Row` in the place of a row."""
    with RunFile(path) as run:
        row = {row.image_id: row for row in run.rows()}[image_id]
    _rewrite(path, "certificate", f"image_id = {image_id}", change(row).record()._asdict())


def forge_head(path, **columns):
    """Put other values into the head."""
    _rewrite(path, "run", "one = 1", columns)


def forge_parameters(path, **parameters):
    """Put other values among the parameters."""
    with RunFile(path) as run:
        forge_head(path, parameters=json.dumps(run.parameters | parameters))
