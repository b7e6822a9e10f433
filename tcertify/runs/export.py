"""Export of a run: the field's log, CSV or Parquet."""

from __future__ import annotations

import csv
import json
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcertify._files import complete, complete_text
from tcertify.logs.tsv import write_log
from tcertify.runs.table import RunTable

FORMATS = ("tsv", "csv", "parquet")


def export_run(table: RunTable, out: str | os.PathLike[str], format: str = "tsv") -> None:
    """Write the certificates of a run; no number in the file is above the certificate's.

    ``"tsv"`` is the log that the field's analysis scripts read, with ten decimals of the radius,
    rounded down; an image that failed stands there as an abstention. ``"csv"`` and ``"parquet"``
    hold every column of `RunTable` exactly, and what the radius implies in l1 and linf; Parquet
    has the parameters as metadata. The file appears under its name only when it is complete.

    Raises
    ------
    ValueError
        An unknown format.
    ModuleNotFoundError
        Parquet without pyarrow, with the line that installs it.
    OSError
        The file cannot be written, or `out` is neither a regular file nor a pipe.
    """
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {', '.join(FORMATS)}, got {format!r}.")
    if format == "tsv":
        write_log(
            out,
            idx=table.image_id,
            label=table.label,
            predict=table.predicted,
            radius=table.radius,
            seconds=table.seconds,
            method=table.method + table.settings.ending,
        )
    elif format == "csv":
        _write_csv(table, out)
    else:
        _write_parquet(table, out)


def _write_csv(table: RunTable, out: str | os.PathLike[str]) -> None:
    columns = _columns(table)
    with complete_text(out) as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        # tolist() gives Python floats, whose repr is exact
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))


def _write_parquet(table: RunTable, out: str | os.PathLike[str]) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise ModuleNotFoundError("Parquet needs pyarrow: pip install pyarrow.") from None
    metadata = {"tcertify": json.dumps(table.parameters)}
    content = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(_columns(table)).replace_schema_metadata(metadata), content)
    with complete(out) as file:  # in one piece, since a pipe cannot be asked for its position
        file.write(content.getvalue())


def _columns(table: RunTable) -> dict[str, NDArray[Any]]:
    implied = {name: getattr(table, name) for name in ("l1_radius", "linf_radius")}
    columns = {**vars(table), **implied}
    return {name: value for name, value in columns.items() if isinstance(value, np.ndarray)}
