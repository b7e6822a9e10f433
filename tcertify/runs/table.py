"""The certificates of a run as arrays."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcertify.runs.file import RunFile

_COLUMNS = {
    "idx": np.int64,
    "label": np.int64,
    "predicted": np.int64,
    "radius": np.float64,
    "p_a_lower": np.float64,
    "p_b_upper": np.float64,
    "n": np.int64,
    "invalid": np.int64,
    "seconds": np.float64,
    "failed": np.bool_,
}


@dataclass(frozen=True, eq=False)
class RunTable:
    """The certificates of a run, one entry an image, in the order of the indices.

    Attributes
    ----------
    idx, label : int64 arrays (M,)
        The image's number in its data set, and its class there.
    predicted : int64 array
        The certified (or predicted) class; -1 abstains.
    radius, p_a_lower, p_b_upper : float64 arrays
        As in `Certificates`.
    n, invalid : int64 arrays
        Estimation votes, and how many of them were lost to NaN logits.
    seconds : float64 array
        The image's share of the time.
    failed : bool array
        Images that could not be certified: NaN pixels, or an exception of the model.
    parameters, environment : dict
        What the run depends on, and what is worth knowing besides.
    warnings, damage : tuple of str
        What was found on the way, and what of the file could not be read.
    missing : int
        Images that the run has yet to certify.
    path : Path
    """

    idx: NDArray[np.int64]
    label: NDArray[np.int64]
    predicted: NDArray[np.int64]
    radius: NDArray[np.float64]
    p_a_lower: NDArray[np.float64]
    p_b_upper: NDArray[np.float64]
    n: NDArray[np.int64]
    invalid: NDArray[np.int64]
    seconds: NDArray[np.float64]
    failed: NDArray[np.bool_]
    parameters: dict[str, Any]
    environment: dict[str, Any]
    warnings: tuple[str, ...]
    damage: tuple[str, ...]
    missing: int
    path: Path

    def __len__(self) -> int:
        return len(self.idx)


def read_run(path: str | os.PathLike[str]) -> RunTable:
    """Return the whole rows of a run file as arrays; 66 bytes an image, however many classes.

    Raises
    ------
    RunFileError
        The file is no run file, or its parameters cannot be read.
    """
    with RunFile(path) as run:
        rows = (
            (*(getattr(row, name) for name in [*_COLUMNS][:-1]), row.error is not None)
            for row in run.rows()
        )
        table = np.fromiter(rows, list(_COLUMNS.items()))
        return RunTable(
            **{name: np.ascontiguousarray(table[name]) for name in _COLUMNS},
            parameters=run.parameters,
            environment=run.environment,
            warnings=tuple(run.warnings),
            damage=tuple(run.damage),
            missing=len(set(run.plan).difference(table["idx"].tolist())),
            path=run.path,
        )
