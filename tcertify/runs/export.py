"""Export of a run: the field's log, CSV or Parquet."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcertify.logs.tsv import write_log
from tcertify.runs.table import RunTable

FORMATS = ("tsv", "csv", "parquet")


def export_run(table: RunTable, out: str | os.PathLike[str], format: str = "tsv") -> None:
    """Write the certificates of a run; no number in the file is above the certificate's.

    ``"tsv"`` is the log that the field's analysis scripts read, with ten decimals of the radius,
    rounded down; an image that failed stands there as an abstention. ``"csv"`` and ``"parquet"``
    hold every column of `RunTable` exactly, Parquet with the parameters as metadata. The file
    appears under its name only when it is complete.

    Raises
    ------
    ValueError
        An unknown format.
    ModuleNotFoundError
        Parquet without pyarrow, with the line that installs it.
    OSError
        The file cannot be written.
    """
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {', '.join(FORMATS)}, got {format!r}.")
    if format == "tsv":
        write_log(
            out,
            idx=table.idx,
            label=table.label,
            predict=table.predicted,
            radius=table.radius,
            seconds=table.seconds,
            method=table.parameters["method"] + ("-early" if table.parameters["radii"] else ""),
        )
    elif format == "csv":
        _write_csv(table, Path(out))
    else:
        _write_parquet(table, Path(out))


def _write_csv(table: RunTable, out: Path) -> None:
    columns = _columns(table)
    with _complete(out) as path, open(path, "w", newline="", encoding="ascii") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        # tolist() gives Python floats, whose repr is exact
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))


def _write_parquet(table: RunTable, out: Path) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'Parquet needs pyarrow: pip install "tcertify[parquet]".'
        ) from None
    metadata = {"tcertify": json.dumps(table.parameters)}
    with _complete(out) as path:
        parquet.write_table(pyarrow.table(_columns(table)).replace_schema_metadata(metadata), path)


def _columns(table: RunTable) -> dict[str, NDArray[Any]]:
    return {name: value for name, value in vars(table).items() if isinstance(value, np.ndarray)}


@contextmanager
def _complete(out: Path) -> Iterator[Path]:
    """Yield a path to write; rename it to `out` at the end, or remove it."""
    if out.exists() and not out.is_file():  # a pipe or a device is written in place
        yield out
        return
    partial = out.with_name(f"{out.name}.part")
    try:
        yield partial
        os.replace(partial, out)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
