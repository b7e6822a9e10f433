"""How format-1.run was made. It is read by a test for ever after, so it is not made again.

python -m tests.data.make_format_1 OUT
"""

import contextlib
import sqlite3
import sys
import tempfile
from pathlib import Path

from tcertify.runs.file import RunFile, RunWriter
from tests.tiny import CLASSES, certify, images

if __name__ == "__main__":
    out = Path(sys.argv[1])
    data = [images()[i] for i in range(6)]
    data[4][0].fill_(float("nan"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.run"
        certify(path, data=data, num_classes=CLASSES, method="joint", radii=[0.0, 0.25])
        with RunFile(path) as run:
            rows, parameters = [*run.rows()], run.parameters | {"device": "cpu, x86_64, AVX2"}
    with RunWriter(out, parameters, {"batch_size": 64}, range(8), whole=range(9)) as writer:
        writer.add(rows)
        writer.warn("A warning.")
    with contextlib.closing(sqlite3.connect(out)) as db:  # small pages, for a small file
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA page_size = 512")
        db.execute("VACUUM")
