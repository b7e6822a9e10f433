"""Verification: every certificate of a run, recomputed from the votes that the file keeps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tcertify._checks import check_whole
from tcertify.runs.file import RunFile
from tcertify.runs.row import Row, too_good
from tcertify.runs.settings import MAX_VOTES, Settings
from tcertify.votes import Votes

if TYPE_CHECKING:
    import torch

    from tcertify.classifiers import Classifier
    from tcertify.classifiers.execution import BaseClassifier

#: Rows that are recomputed together, and what their votes may take.
_CHUNK, _CHUNK_VOTES = 256, MAX_VOTES


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
    shard_of : int or None
        Images of the whole run, where the file is a shard of it only.
    replayed : tuple of int
        Images whose votes were cast again.
    moved : int
        The most votes of one such image that came out otherwise.
    fresh : tuple of int
        Images that were sampled again under new noise.
    fresh_seed : int or None
        Its seed.
    n_tau : float or None
        Under Gaussian noise, the exponent by which the noise as drawn may raise alpha.
    charge_noise : bool
        Whether the certificates were made at so small a level that alpha holds nevertheless.
    """

    verified: int
    findings: tuple[str, ...]
    failed: int
    missing: int
    shard_of: int | None = None
    replayed: tuple[int, ...] = ()
    moved: int = 0
    fresh: tuple[int, ...] = ()
    fresh_seed: int | None = None
    n_tau: float | None = None
    charge_noise: bool = False


def verify_run(
    path: str | os.PathLike[str],
    *,
    replay: int = 0,
    fresh: int = 0,
    model: BaseClassifier | Classifier | None = None,
    dataset: Any = None,
    device: torch.device | str | None = None,
    seed: int | None = None,
) -> Report:
    """Recompute every certificate of a run from its votes, and report what they do not support.

    A row is supported when its votes have the sizes that the run states and when its class, its
    radius and its bounds are no better than what the run's method and alpha give for these votes.
    (Radii are compared with a slack of 1e-9 of their size, as versions of scipy round differently;
    what they say in integers is compared as it is.)

    Parameters
    ----------
    path : the run file.
    replay : int
        Cast the votes of this many images, chosen at random, again, and compare their labels with
        the data set's. On the same kind of device, with the same version of torch, the votes must
        be the same. Elsewhere the last bits of logits differ: there up to 0.5 % of an image's
        votes may come out otherwise, and a certificate that the votes as they come out do not
        support is reported, by however little.
    fresh : int
        Sample this many images, chosen at random, again under a new seed that nobody could know,
        and compare the votes for the certified class with those in the file (of runs that stopped
        early or were topped up, those at the first look) by Fisher's exact test. An honest run is
        accused with probability at most 0.001, over all these images. This finds what a replay
        cannot: a model or an image that was fitted to the noise of the run's seed.
    model, dataset
        What the run was made with, for `replay` and `fresh`.
    device
        Where a `model` that is no torch module runs.
    seed : int, optional
        Chooses the same images again.

    Returns
    -------
    Report

    Raises
    ------
    RunFileError
        The file is no run file, its parameters cannot be read, or `replay` or `fresh` is given
        another model or data set.
    """
    check_whole("replay", replay, minimum=0)
    check_whole("fresh", fresh, minimum=0)
    with RunFile(path) as run:
        report = _verified(run)
        if not (replay or fresh):
            return report
        if model is None or dataset is None:
            name = "replay" if replay else "fresh"
            raise ValueError(f"`{name}` needs the model and the data set of the run.")
        from tcertify.data import as_dataset

        dataset = as_dataset(dataset, num_classes=run.settings.num_classes)
        if replay:
            from tcertify.runs.replay import cast_again

            again = cast_again(run, replay, model, dataset, device=device, seed=seed)
            report = replace(
                report,
                findings=(*report.findings, *again.findings),
                replayed=again.images,
                moved=again.moved,
            )
        if fresh:
            from tcertify.runs.fresh import cast_fresh

            found = cast_fresh(run, fresh, model, dataset, device=device, seed=seed)
            report = replace(
                report,
                findings=(*report.findings, *found.findings),
                fresh=found.images,
                fresh_seed=found.seed,
            )
        return report


def _verified(run: RunFile) -> Report:
    findings = [f"The file: {text}." for text in run.structure()]
    verified, failed, seen = 0, 0, set[int]()
    for rows in _chunks(run):
        wrong = [*_unsupported(rows, run.settings)]
        findings += [text for _, text in wrong]
        seen.update(row.image_id for row in rows)
        failed += sum(row.error is not None for row in rows)
        verified += len(rows) - len({image_id for image_id, _ in wrong})
    findings += run.damage
    planned = set(run.plan)
    findings += [f"Image {image}: it is not in the plan." for image in sorted(seen - planned)]
    shard_of = len(run.whole) if run.is_shard else None
    return Report(
        verified,
        tuple(findings),
        failed,
        missing=len(planned - seen),
        shard_of=shard_of,
        n_tau=run.settings.n_tau,
        charge_noise=run.settings.charge_noise,
    )


def _chunks(run: RunFile) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    for row in run.rows():
        chunk.append(row)
        if len(chunk) == _CHUNK or len(chunk) * row.looks.size > _CHUNK_VOTES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _unsupported(rows: list[Row], settings: Settings) -> Iterator[tuple[int, str]]:
    """Yield images with what their votes do not support."""
    whole: list[Row] = []
    for row in rows:
        try:
            row.check(settings)
        except ValueError as error:
            yield row.image_id, f"Image {row.image_id}: {error}"
            continue
        if row.error is None:
            whole.append(row)
    if not whole:
        return
    looks = np.array([row.look for row in whole])
    columns = np.array([row.looks[row.look] for row in whole])
    tops = np.array([max(row.top, 0) for row in whole])
    found = settings.certificates(Votes.from_columns(columns, tops), looks)
    most = settings.squared_levels(found["radius"])
    for row, certificate, squares in zip(whole, found, most, strict=True):
        for text in too_good(row, certificate):
            yield row.image_id, text
        if row.squared_levels is not None and row.squared_levels > squares:
            yield (
                row.image_id,
                f"Image {row.image_id}: squared_levels {row.squared_levels}, but its votes support"
                f" only {squares}.",
            )
