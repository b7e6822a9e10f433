"""Recertification: the table of a run under another method or alpha, from the votes it keeps."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from tcertify._checks import check_alpha, check_choice
from tcertify.certificates import METHODS
from tcertify.errors import RunFileError
from tcertify.runs.file import RunFile
from tcertify.runs.row import Row
from tcertify.runs.settings import CERTIFICATE, NOTHING, Settings
from tcertify.runs.table import RunTable, table_of


def recertify_run(
    path: str | os.PathLike[str], *, method: str | None = None, alpha: float | None = None
) -> RunTable:
    """Return the table of a run under another method or alpha, from the votes that it keeps.

    Each certificate is wrong with probability at most `alpha` if method and alpha were chosen
    without a look at the votes. No new sample is drawn. A run that stopped early keeps its looks;
    their levels are scaled to `alpha`, and the best look counts. Its images were stopped where the
    run's own method and alpha had decided them, so another choice certifies at most that far.

    Raises
    ------
    RunFileError, ValueError
        The file is no run of certificates, a row's votes cannot be read, or arguments are out of
        range.
    """
    with RunFile(path) as run:
        if run.settings.predicts:
            raise RunFileError(f"`{path}` holds predictions, which have no radius.")
        after = _changed(run.settings, method, alpha)
        table = table_of(run)
        found = [_best(row, table.settings, after) for row in run.rows()]
        if len(found) < len(table):
            raise RunFileError(f"`{path}` is damaged: {run.damage[-1]}")
    best = np.array(found, CERTIFICATE)
    return replace(
        table,
        predicted=best["predicted"].copy(),
        radius=best["radius"].copy(),
        p_a_lower=best["p_a"].copy(),
        p_b_upper=best["p_b"].copy(),
        squared_levels=after.squared_levels(best["radius"]),
        settings=after,
        parameters={**table.parameters, **json.loads(json.dumps(asdict(after)))},
    )


def _changed(settings: Settings, method: str | None, alpha: float | None) -> Settings:
    method = settings.method if method is None else check_choice("method", method, METHODS)
    alpha = settings.alpha if alpha is None else check_alpha("alpha", alpha)
    levels = settings.schedule.scaled(alpha).levels
    return replace(settings, method=method, alpha=alpha, look_levels=levels)


def _best(row: Row, before: Settings, after: Settings) -> tuple[Any, ...]:
    """Return the certificate of the look that gives the largest radius."""
    try:
        row.check(before)
    except ValueError as error:
        raise RunFileError(f"Image {row.image_id}: {error}") from None
    if row.error is not None:
        return NOTHING
    found = after.certificates(row.votes(), np.arange(len(row.looks)))
    return tuple(found[found["radius"].argmax()])
