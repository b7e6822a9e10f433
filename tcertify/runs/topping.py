"""Topping up a run with a reserve: a new run, whose images begin with the votes of the old one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tcertify.errors import RunFileError
from tcertify.runs.file import RunFile, check_made_alike
from tcertify.runs.lock import check_unlocked
from tcertify.runs.machine import Hands
from tcertify.runs.row import Row
from tcertify.runs.seeds import DERIVED
from tcertify.runs.settings import Settings
from tcertify.statistics.reserve import topped_up

#: The parameters that topping up changes.
_NEW = ("looks", "look_levels")

#: What the arguments of a run decide, known before anything is sampled.
_ASKED = ("num_classes", "sigma", "n0", "alpha", "method", "radii")


class OldRun:
    """The run that is topped up, open; nothing of it is changed."""

    def __init__(self, run: RunFile) -> None:
        self._run = run
        self.path, self.settings = run.path, run.settings

    def continued(self, settings: Settings) -> Settings:
        """Return the settings of a new run with the looks of this one, and more up to its n.

        Raises
        ------
        RunFileError
            This run was made with other settings.
        ValueError
            Nothing of alpha is left, or n is not this run's times a power of two.
        """
        there = self._run.parameters
        asked = json.loads(json.dumps(asdict(settings)))
        check_made_alike("top up", self.path, *({n: p[n] for n in _ASKED} for p in (there, asked)))
        schedule = topped_up(self.settings.schedule, settings.n, alpha=settings.alpha)
        return replace(settings, looks=schedule.looks, look_levels=schedule.levels)

    def check(self, hands: Hands) -> None:
        """Raise `RunFileError` unless this run was made as `hands` will make the new one."""
        here = json.loads(json.dumps(hands.parameters))
        check_made_alike("top up", self.path, *map(_lasting, (self._run.parameters, here)))
        hands.check_probe(self.path, self._run.parameters)

    def begun(self, image_id: int) -> Row | None:
        """Return the row of an image, if it has votes."""
        try:
            row = self._run.row(image_id)
            if row is not None:
                row.check(self.settings)
        except ValueError as error:
            raise RunFileError(f"`{self.path}`, image {image_id}: {error}") from None
        return row if row is not None and row.error is None else None


def check_top_up(seed: int | str, **others: Any) -> None:
    """Refuse what does not go with topping up."""
    for name, value in others.items():
        if value not in (None, False):
            raise ValueError(f"`top_up` must not be given with `{name}`.")
    if seed == DERIVED:
        raise ValueError(
            "`seed` must not be derived with `top_up`, but that of the run to top up, which random"
            " takes."
        )


@contextmanager
def old_run(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> Iterator[OldRun]:
    """Yield the run that is topped up.

    Raises
    ------
    RunFileError
        It is no run file, damaged, being written, or was made without a reserve.
    ValueError
        It is `out`.
    """
    if os.path.exists(path) and os.path.exists(out) and os.path.samefile(path, out):
        raise ValueError(f"`top_up` must be another run than the one to be made, got {path}.")
    check_unlocked(Path(path))
    with RunFile(path) as run:
        run.check_structure()
        if run.settings.reserve is None:
            raise RunFileError(
                f"Cannot top up `{path}`: it was made without a reserve, so that its levels leave"
                " nothing of alpha."
            )
        for _ in run.records():
            pass
        if run.damage:
            raise RunFileError(
                f"`{path}` is damaged: {run.damage[0]} A resume of it makes such rows again."
            )
        yield OldRun(run)


def _lasting(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that topping up does not change."""
    return {name: value for name, value in parameters.items() if name not in _NEW}
