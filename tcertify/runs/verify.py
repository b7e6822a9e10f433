"""Verification: every certificate of a run, recomputed from the votes that the file keeps."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tcertify._checks import check_alpha, check_whole
from tcertify.errors import RunFileError
from tcertify.runs.file import Row, RunFile, decode_votes
from tcertify.runs.settings import CERTIFICATE, NOTHING, Settings
from tcertify.runs.table import RunTable, read_run

if TYPE_CHECKING:
    from tcertify.classifiers.execution import BaseClassifier

#: Rows that are recomputed together.
_CHUNK = 256

#: Other versions of the special functions may round a bound otherwise, by less than this.
_ROUNDING = 1e-9

#: On another kind of device, or with another version of torch, this share of votes may move.
MOVED_VOTES = 0.005


@dataclass(frozen=True)
class Report:
    """What `verify_run` found.

    Attributes
    ----------
    verified : int
        Rows whose votes support what they say.
    findings : tuple of str
        What is wrong, one sentence each; empty for a sound file.
    failed : int
        Images that the run could not certify; their rows certify nothing.
    missing : int
        Images that the run has yet to certify.
    replayed : tuple of int
        Images whose votes were cast again.
    moved : int
        The most votes of one such image that came out otherwise, within what is allowed.
    """

    verified: int
    findings: tuple[str, ...]
    failed: int
    missing: int
    replayed: tuple[int, ...] = ()
    moved: int = 0


def verify_run(
    path: str | os.PathLike[str],
    *,
    replay: int = 0,
    model: BaseClassifier | None = None,
    dataset: Any = None,
    seed: int | None = None,
) -> Report:
    """Recompute every certificate of a run from its votes, and report what they do not support.

    A row is supported when its votes have the sizes that the run states and when its class, its
    radius and its bounds are no better than what the run's method and alpha give for these votes.
    (Radii are compared with a slack of 1e-9 of their size: versions of scipy round differently.)

    Parameters
    ----------
    path : the run file.
    replay : int
        Cast the votes of this many images, chosen at random, again. On the same kind of device,
        with the same version of torch, they must be the same; elsewhere up to 0.5 % of an image's
        votes may come out otherwise, since last bits of logits differ between devices.
    model, dataset
        What the run was made with, for `replay`.
    seed : int, optional
        Chooses the same images again.

    Returns
    -------
    Report

    Raises
    ------
    RunFileError
        The file is no run file, its parameters cannot be read, or `replay` is given another
        model or data set.
    """
    with RunFile(path) as run:
        settings, findings = _settings(run), [f"The file: {text}." for text in run.structure()]
        verified, failed, seen = 0, 0, set[int]()
        for chunk in _chunks(run.rows()):
            wrong = [*_unsupported(chunk, settings)]
            findings += wrong
            seen.update(row.idx for row in chunk)
            failed += sum(row.error is not None for row in chunk)
            verified += len(chunk) - len({text.split(":")[0] for text in wrong})
        findings += run.damage
        findings += [f"Image {idx}: it is not in the plan." for idx in seen.difference(run.plan)]
        report = Report(
            verified, tuple(findings), failed, missing=len(set(run.plan).difference(seen))
        )
        if not check_whole("replay", replay, minimum=0):
            return report
        if model is None or dataset is None:
            raise ValueError("`replay` needs the model and the data set of the run.")
        return _replayed(run, settings, report, replay, model, dataset, seed)


def recertify_run(
    path: str | os.PathLike[str], *, method: str | None = None, alpha: float | None = None
) -> RunTable:
    """Return the table of a run under another method or alpha, from the votes that it keeps.

    Each certificate is wrong with probability at most `alpha` if method and alpha were chosen
    without a look at the votes. No new sample is drawn. A run that stopped early keeps its looks;
    their levels are scaled to `alpha`, and the best look counts.

    Raises
    ------
    RunFileError, ValueError
        The file is no run of certificates, a row's votes cannot be read, or arguments are out of
        range.
    """
    table = read_run(path)
    with RunFile(path) as run:
        before = _settings(run)
        if before.predicts:
            raise RunFileError(f"`{run.path}` holds predictions, which have no radius.")
        after = _changed(before, method, alpha)
        found = [_best(row, before, after) for row in run.rows()]
    best = np.array(found, CERTIFICATE)
    return replace(
        table,
        predicted=best["label"].copy(),
        radius=best["radius"].copy(),
        p_a_lower=best["p_a"].copy(),
        p_b_upper=best["p_b"].copy(),
        parameters={**table.parameters, "method": after.method, "alpha": after.alpha},
    )


def _settings(run: RunFile) -> Settings:
    try:
        return Settings.from_parameters(run.parameters)
    except (ValueError, TypeError) as error:
        raise RunFileError(f"`{run.path}` has parameters that make no sense: {error}") from None


def _changed(settings: Settings, method: str | None, alpha: float | None) -> Settings:
    if method == "predict":
        raise ValueError("`method` must certify, got 'predict'.")
    alpha = settings.alpha if alpha is None else check_alpha("alpha", alpha)
    levels = settings.schedule.scaled(alpha).levels
    return replace(settings, method=method or settings.method, alpha=alpha, levels=levels)


def _best(row: Row, before: Settings, after: Settings) -> tuple[Any, ...]:
    """Return the certificate of the look that gives the largest radius."""
    try:
        looks, top = _votes(row, before)
    except ValueError as error:
        raise ValueError(f"Image {row.idx}: {error}") from None
    if looks is None:
        return NOTHING
    found = after.certificates(looks, np.full(len(looks), top), np.arange(len(looks)))
    return tuple(found[found["radius"].argmax()])


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while chunk := [*islice(rows, _CHUNK)]:
        yield chunk


def _unsupported(rows: list[Row], settings: Settings) -> Iterator[str]:
    """Yield what the votes of rows do not support, each text beginning with its image."""
    whole: list[tuple[Row, NDArray[np.int64], int]] = []
    for row in rows:
        try:
            looks, top = _votes(row, settings)
            if looks is not None:
                whole.append((row, looks[row.look], top))
        except ValueError as error:
            yield f"Image {row.idx}: {error}"
    if not whole:
        return
    votes = np.array([vote for _, vote, _ in whole])
    tops = np.array([top for _, _, top in whole])
    found = settings.certificates(votes, tops, np.array([row.look for row, _, _ in whole]))
    for (row, _, _), certificate in zip(whole, found, strict=True):
        yield from _too_good(row, certificate)


def _too_good(row: Row, found: Any) -> Iterator[str]:
    slack = 1 + _ROUNDING
    if row.predicted not in (-1, found["label"]):
        yield f"Image {row.idx}: class {row.predicted}, but its votes give {found['label']}."
    if not row.radius <= found["radius"] * slack:
        yield (
            f"Image {row.idx}: radius {row.radius!r}, but its votes support only"
            f" {float(found['radius'])!r}."
        )
    if row.predicted == -1 and row.radius > 0:
        yield f"Image {row.idx}: radius {row.radius!r} beside an abstention."
    if not (row.p_a_lower <= found["p_a"] * slack and row.p_b_upper * slack >= found["p_b"]):
        yield (
            f"Image {row.idx}: bounds {row.p_a_lower!r} and {row.p_b_upper!r}, but its votes"
            f" support only {float(found['p_a'])!r} and {float(found['p_b'])!r}."
        )


def _votes(row: Row, settings: Settings) -> tuple[NDArray[np.int64] | None, int]:
    """Return a row's votes at its looks, and its class; a ValueError says what does not fit."""
    for name in ("method", "alpha", "sigma", "seed", "n0"):
        if getattr(row, name) != getattr(settings, name):
            raise ValueError(f"`{name}` is {getattr(row, name)!r}, unlike the run's.")
    if row.error is not None:
        if (row.predicted, row.radius, row.p_a_lower, row.p_b_upper) != NOTHING:
            raise ValueError("it is invalid, and yet certified.")
        return None, 0
    selection = decode_votes(row.selection, settings.num_classes)
    looks = decode_votes(row.estimation, settings.num_classes)
    if selection.sum(1).tolist() != ([settings.n0] if settings.n0 else []):
        raise ValueError(f"its selection votes do not sum to n0 = {settings.n0}.")
    if not 0 < len(looks) <= len(settings.looks) or row.look >= len(looks):
        raise ValueError(f"it has votes of {len(looks)} looks, and {row.look} for its best.")
    if looks.sum(1).tolist() != [*settings.looks[: len(looks)]]:
        raise ValueError("its estimation votes do not sum to the samples of the looks.")
    if (np.diff(looks, axis=0) < 0).any():
        raise ValueError("its votes decrease from one look to the next.")
    if row.n != looks[-1].sum() or row.invalid != looks[-1, -1]:
        raise ValueError("`n` or `invalid` is not what its votes say.")
    return looks, int(selection[0, :-1].argmax()) if len(selection) else 0


def _replayed(
    run: RunFile,
    settings: Settings,
    report: Report,
    replay: int,
    model: BaseClassifier,
    dataset: Any,
    seed: int | None,
) -> Report:
    """Cast the votes of random images again; add to the report what differs."""
    from tcertify.runs.engine import make_sampler
    from tcertify.runs.images import load_images
    from tcertify.runs.provenance import device_name, versions

    rows = {row.idx: row for row in run.rows() if row.error is None}
    draw = np.random.default_rng(seed)
    chosen = sorted(draw.choice([*rows], min(replay, len(rows)), replace=False).tolist())
    parameters = run.parameters
    options = {name: parameters[name] for name in ("dtype", "channels_last", "compile", "tf32")}
    options["batch_size"] = run.environment.get("batch_size")
    sampler = make_sampler(model, settings, options)  # type: ignore[arg-type]
    device = sampler.classifier.device
    _check_same_inputs(run, sampler.classifier.fingerprint(), dataset)
    here = {"device": device_name(device), **versions()}
    exact = all(parameters.get(name) == value for name, value in here.items())
    findings, most = [*report.findings], 0
    allow = parameters["allow"]
    for image in load_images(dataset, chosen, device, settings.num_classes, allow):
        moved = _moved(sampler, settings, rows[image.idx], image.pixels)
        most = max(most, moved)
        if moved > (0 if exact else MOVED_VOTES * rows[image.idx].n + 1):
            findings.append(f"Image {image.idx}: {moved} votes come out otherwise when replayed.")
    return replace(report, findings=tuple(findings), replayed=tuple(chosen), moved=most)


def _check_same_inputs(run: RunFile, fingerprint: str, dataset: Any) -> None:
    from tcertify.data.fingerprint import data_fingerprint

    if fingerprint != run.parameters["model"]:
        raise RunFileError(f"`{run.path}` was made with another model: the fingerprints differ.")
    if data_fingerprint(dataset, run.plan) != run.parameters["data"]:
        raise RunFileError(f"`{run.path}` was made from other data: the fingerprints differ.")


def _moved(sampler: Any, settings: Settings, row: Row, pixels: Any) -> int:
    """Return how many of an image's votes come out otherwise."""
    from tcertify.sampling.noise import ESTIMATION, PREDICTION, SELECTION

    stream = PREDICTION if settings.predicts else ESTIMATION
    samples: Iterable[tuple[str, int, int]] = [(row.estimation, row.n, stream)]
    if settings.n0:
        samples = [*samples, (row.selection, settings.n0, SELECTION)]
    moved = 0
    for text, n, which in samples:
        there = decode_votes(text, settings.num_classes)[-1]
        here = sampler.count(pixels[None], [row.idx], 0, n, which)[0]
        moved += int(abs(here - there).sum()) // 2
    return moved
