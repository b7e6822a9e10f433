"""The certificates of a run as arrays."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcertify.radius import radius_in_norm
from tcertify.runs.file import RunFile
from tcertify.runs.settings import MAX_AXES, MAX_SIDE, Settings

_COLUMNS = {
    "image_id": np.int64,
    "label": np.int64,
    "predicted": np.int64,
    "radius": np.float64,
    "p_a_lower": np.float64,
    "p_b_upper": np.float64,
    "n": np.int64,
    "invalid": np.int64,
    "squared_levels": np.int64,
    "seconds": np.float64,
    "failed": np.bool_,
}


#: Images that a notebook shows.
_SHOWN = 10


@dataclass(frozen=True, eq=False)
class RunTable:
    """The certificates of a run, one entry per image, in the order of the images.

    Attributes
    ----------
    image_id, label : int64 arrays (M,)
        The image's number in its data set, and its true class there.
    predicted : int64 array
        The certified (or predicted) class; -1 abstains.
    radius, p_a_lower, p_b_upper : float64 arrays
        As in `Certificates`. Where a run `stopped_early` they may be smaller than a full run's
        would be: read certified accuracy at the radii of the settings only, and no mean radius.
    n, invalid : int64 arrays
        Estimation votes, and how many of them no class received (NaN logits, ties of integer
        noise).
    squared_levels : int64 array
        Under integer noise, the certificate in integers: it covers every image whose pixels differ
        by grey levels with this sum of squares, or less. -1 where nothing is certified, and under
        Gaussian noise.
    seconds : float64 array
        The image's share of the time.
    failed : bool array
        Images that could not be certified: NaN pixels, or an exception of the data set or the
        classifier.
    errors : dict
        Why, for each image that failed.
    settings : Settings
        Method, alpha, sigma and all else that the certificates are computed with.
    parameters, environment : dict
        What the run depends on, and what is worth knowing besides.
    warnings, damage : tuple of str
        What was found on the way, and what of the file could not be read.
    missing : int
        Images that the run has yet to certify.
    path : Path
    claim : str
        What the certificates say, where `recertify_run` was asked for more than a method and alpha,
        and how samples were planned, where they were.
    top_k : int, optional
        Certified is that the label is among so many most probable classes.
    kept : bool array, optional
        The images that `recertify_run` kept to be reported, or lists all at once.
    all_at_once : float, optional
        Certified is one radius, this one, for all images that are kept at once.
    shard_of : int, optional
        Images of the whole run, where this file is a shard of it only.
    """

    image_id: NDArray[np.int64]
    label: NDArray[np.int64]
    predicted: NDArray[np.int64]
    radius: NDArray[np.float64]
    p_a_lower: NDArray[np.float64]
    p_b_upper: NDArray[np.float64]
    n: NDArray[np.int64]
    invalid: NDArray[np.int64]
    squared_levels: NDArray[np.int64]
    seconds: NDArray[np.float64]
    failed: NDArray[np.bool_]
    errors: dict[int, str]
    settings: Settings
    parameters: dict[str, Any]
    environment: dict[str, Any]
    warnings: tuple[str, ...]
    damage: tuple[str, ...]
    missing: int
    path: Path
    claim: str = ""
    top_k: int | None = None
    kept: NDArray[np.bool_] | None = None
    all_at_once: float | None = None
    shard_of: int | None = None

    def __len__(self) -> int:
        return len(self.image_id)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether `predicted` is the true class; an image that abstained or failed is not."""
        return np.asarray((self.predicted == self.label) & ~self.failed)

    @property
    def part(self) -> str:
        """What part of a run this is, in words, where it is a shard; else nothing."""
        if self.shard_of is None:
            return ""
        return f"shard: {len(self) + self.missing} of {self.shard_of} images"

    @property
    def method(self) -> str:
        """How votes became a radius: that of the settings, or "top-3" where that was asked, with
        "-holm" for what was certified all at once and "-reported" for what came out well.
        """
        chosen = "" if self.kept is None else "-reported" if self.all_at_once is None else "-holm"
        return (self.settings.method if self.top_k is None else f"top-{self.top_k}") + chosen

    @property
    def l1_radius(self) -> NDArray[np.float64]:
        """What the radius implies in l1, which is the same number."""
        return self.radius

    @property
    def linf_radius(self) -> NDArray[np.float64] | None:
        """What the radius implies in linf, rounded down; None where no shape was recorded."""
        size = _size(self.parameters.get("shape"))
        return None if size is None else radius_in_norm(self.radius, math.inf, size)

    @property
    def n_tau(self) -> float | None:
        """What Gaussian noise as drawn may do: a certificate is wrong with probability at most
        ``alpha * exp(n_tau)``, and alpha itself where the settings charge for it. None under
        integer noise, which owes nothing, and where no image was whole.
        """
        return self.settings.n_tau

    @property
    def stopped_early(self) -> bool:
        """Whether images were sampled only until their cell of the settings' radii was decided."""
        return self.settings.radii is not None

    def to_frame(self) -> Any:
        """Return the arrays, one column each, as a pandas data frame, or else one of polars.

        Raises
        ------
        ModuleNotFoundError
            Neither pandas nor polars is installed.
        """
        columns = {name: getattr(self, name) for name in _COLUMNS}
        for library in ("pandas", "polars"):
            if find_spec(library):
                return import_module(library).DataFrame(columns)
        raise ModuleNotFoundError("A frame needs pandas or polars: pip install pandas.")

    def _repr_html_(self) -> str:
        """Return what notebooks show: the settings, and the first images."""
        made, shown = self.settings, range(min(len(self), _SHOWN))
        head = (
            f"{self.path.name}: {self.method}, alpha = {made.alpha:g}, sigma = {made.sigma:g},"
            f" {len(self)} images, {int(self.correct.sum())} right,"
            f" {int((self.predicted < 0).sum())} abstained or failed, {self.missing} still to do"
            + (f" ({self.part})" if self.part else "")
        )
        names = "".join(f"<th>{name}</th>" for name in _COLUMNS)
        rows = "".join(
            "<tr>" + "".join(f"<td>{getattr(self, name)[i]}</td>" for name in _COLUMNS) + "</tr>"
            for i in shown
        )
        more = f"<p>and {len(self) - _SHOWN} more images</p>" if len(self) > _SHOWN else ""
        return f"<p>{escape(head)}</p><table><tr>{names}</tr>{rows}</table>{more}"


def read_run(path: str | os.PathLike[str]) -> RunTable:
    """Return the whole rows of a run file as arrays; 74 bytes per image, however many classes.

    Raises
    ------
    RunFileError
        The file is no run file, or its parameters cannot be read.
    """
    with RunFile(path) as run:
        return table_of(run)


def table_of(run: RunFile) -> RunTable:
    """Return the whole rows of an open run file; see `read_run`."""
    errors: dict[int, str] = {}

    def entries() -> Iterator[tuple[Any, ...]]:
        for record in run.records():
            if record.error is not None:
                errors[record.image_id] = record.error
            whole = -1 if record.squared_levels is None else record.squared_levels
            values = record._replace(squared_levels=whole)
            yield (*(getattr(values, n) for n in [*_COLUMNS][:-1]), record.error is not None)

    table = np.fromiter(entries(), list(_COLUMNS.items()))
    columns: dict[str, Any] = {name: np.ascontiguousarray(table[name]) for name in _COLUMNS}
    return RunTable(
        **columns,
        errors=errors,
        settings=run.settings,
        parameters=run.parameters,
        environment=run.environment,
        warnings=tuple(run.warnings),
        damage=tuple(run.damage),
        shard_of=len(run.whole) if run.is_shard else None,
        missing=len(set(run.plan).difference(table["image_id"].tolist())),
        path=run.path,
        claim=run.settings.claim,
    )


def _size(shape: Any) -> int | None:
    """Return how many numbers an image of a recorded shape has, if it is one."""
    if not isinstance(shape, list) or not 0 < len(shape) <= MAX_AXES:
        return None
    if not all(type(side) is int and 0 < side <= MAX_SIDE for side in shape):
        return None
    return math.prod(shape)
