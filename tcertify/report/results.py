"""What tables and pictures show: the certificates of a run file or of a log, in one form."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tcertify.logs.tsv import Log, read_log
from tcertify.runs.recertify import recertify_run
from tcertify.runs.table import RunTable, read_run

#: How an SQLite file begins, which is what a run file is.
_SQLITE = b"SQLite format 3\0"


@dataclass(frozen=True, eq=False)
class Result:
    """The certificates of one run or one log.

    Attributes
    ----------
    name : str
        What a table or a legend calls it; a shard of a run is called that.
    image_id, label, predicted : int64 arrays (M,)
        The image's number in its data set, its true class, and the class certified or predicted;
        -1 abstains.
    radius : float64 array (M,)
        Certified radii, 0 for an abstention.
    n : int64 array (M,), optional
        Estimation samples; a log does not say them.
    stopped_early : bool
        Whether sampling ended as soon as some radii were decided: accuracies at these are those of
        the full run, and nothing else is.
    radii : tuple of float, optional
        The radii that were decided, where that is known and they are not all radii. A run of
        predictions decides the radius 0, and what is certified all at once the one it was asked at.
    method, alpha, sigma : optional
        How it was made; a log does not say it.
    failed, missing : int
        Images that could not be certified, and images that the run has yet to certify.
    shard_of : int, optional
        Images of the whole run, where this is a shard of it only.
    claim : str
        What the certificates say, where `recertify_run` was asked for more than a method and alpha.
    top_k : int, optional
        Certified is that the label is among so many most probable classes.
    reported : bool
        Whether only the images that came out well are certified.
    """

    name: str
    image_id: NDArray[np.int64]
    label: NDArray[np.int64]
    predicted: NDArray[np.int64]
    radius: NDArray[np.float64]
    n: NDArray[np.int64] | None = None
    stopped_early: bool = False
    radii: tuple[float, ...] | None = None
    method: str | None = None
    alpha: float | None = None
    sigma: float | None = None
    failed: int = 0
    missing: int = 0
    shard_of: int | None = None
    claim: str = ""
    top_k: int | None = None
    reported: bool = False

    def __len__(self) -> int:
        return len(self.image_id)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the predicted class is the true one; False for an abstention."""
        correct: NDArray[np.bool_] = self.predicted == self.label
        return correct

    @property
    def predicts(self) -> bool:
        """Whether it holds predictions, which certify no radius."""
        return self.method == "predict"

    @classmethod
    def of_run(cls, table: RunTable, name: str = "") -> Result:
        """Return the certificates of a run."""
        made, radii = table.settings, table.settings.radii
        if made.predicts:
            radii = (0.0,)
        elif table.all_at_once is not None:
            radii = (table.all_at_once,)
        called = name or _short(table.path)
        return cls(
            name=f"{called} ({table.part})" if table.part else called,
            image_id=table.image_id,
            label=table.label,
            predicted=table.predicted,
            radius=table.radius,
            n=table.n,
            stopped_early=table.stopped_early,
            radii=radii,
            method=table.method,
            alpha=made.alpha,
            sigma=made.sigma,
            failed=int(table.failed.sum()),
            missing=table.missing,
            shard_of=table.shard_of,
            claim=table.claim,
            top_k=table.top_k,
            reported=table.kept is not None,
        )

    @classmethod
    def of_log(cls, log: Log, name: str) -> Result:
        """Return the certificates of a log; what it says of its method, tcertify wrote into it."""
        methods = {re.sub("-(early|planned)$", "", method) for method in log.methods}
        method = methods.pop() if len(methods) == 1 else None
        at_once = any("-holm" in made for made in log.methods)
        radii = (float(log.radius.max(initial=0.0)),) if at_once else None
        return cls(
            name,
            log.idx,
            log.label,
            log.predict,
            log.radius,
            stopped_early=any(method.endswith("-early") for method in log.methods),
            radii=(0.0,) if method == "predict" else radii,
            method=method,
            reported=at_once or any("-reported" in made for made in log.methods),
        )


def read_result(path: str | os.PathLike[str]) -> Result:
    """Read the certificates of a run file or of a log in the field's format, whichever it is.

    Raises
    ------
    RunFileError
        A run file that is damaged.
    LogError
        A log that cannot be trusted, or a file that is neither.
    OSError
        The file cannot be read.
    """
    return read_results([path])[0]


def read_results(
    paths: Iterable[str | os.PathLike[str]], methods: Sequence[str] = ()
) -> list[Result]:
    """Read run files and logs, under names that differ.

    With `methods`, a run file gives one result for each, from the same votes; a log keeps no votes,
    so that with `methods` it is refused (ValueError).
    """
    found = [result for path in paths for result in _read(Path(path), methods)]
    names = [result.name for result in found]
    return [
        result if names.count(result.name) == 1 else replace(result, name=f"{number} {result.name}")
        for number, result in enumerate(found, start=1)
    ]


def _read(path: Path, methods: Sequence[str]) -> list[Result]:
    with path.open("rb") as file:
        is_run = file.read(len(_SQLITE)) == _SQLITE
    if not is_run:
        if methods:
            raise ValueError(
                f"{path} is a log, which keeps no votes: `methods` needs the run file beside it."
            )
        return [Result.of_log(read_log(path), _short(path))]
    if not methods:
        return [Result.of_run(read_run(path))]
    return [Result.of_run(recertify_run(path, method=method), method) for method in methods]


def _short(path: Path) -> str:
    return path.name.removesuffix(".run").removesuffix(".tsv")
