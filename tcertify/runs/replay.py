"""Replay: the votes of some images of a run, cast again from seed, model and data set."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from tcertify.classifiers import Classifier
from tcertify.classifiers.execution import BaseClassifier
from tcertify.data import Dataset
from tcertify.runs.file import RunFile
from tcertify.runs.images import Loaded, load_images
from tcertify.runs.provenance import (
    check_probe,
    check_same_inputs,
    here,
    recorded_allow,
    recorded_execution,
    recorded_rows,
)
from tcertify.runs.row import Row, too_good
from tcertify.runs.settings import Settings
from tcertify.sampling import ESTIMATION, PREDICTION, SELECTION, Sampler

#: On another kind of device, or with another version of torch, this share of votes may move.
MOVED_VOTES = 0.005


@dataclass(frozen=True)
class Replay:
    """What came out otherwise: sentences, the images that were cast, and the most votes moved."""

    findings: tuple[str, ...]
    images: tuple[int, ...]
    moved: int


def cast_again(
    run: RunFile,
    number: int,
    model: BaseClassifier | Classifier,
    dataset: Dataset,
    *,
    device: torch.device | str | None = None,
    seed: int | None = None,
) -> Replay:
    """Cast the votes of images again, chosen at random, and compare; see `verify_run`."""
    sampler = reopened(run, run.settings, model, dataset, device)
    known = here(sampler.classifier.device)
    exact = all(run.parameters.get(name) == value for name, value in known.items())
    rows = chosen_rows(run, number, seed)
    findings, most = [], 0
    with closing(images_of(run, rows, sampler, dataset)) as images:
        for image in images:
            row = rows[image.image_id]
            if wrong := unlike(image, row):
                findings.append(wrong)
                continue
            again = _cast(sampler, run.settings, row, image.pixels)
            moved = _moved(row, again)
            most = max(most, moved)
            findings += _differences(row, again, moved, exact, run.settings)
    return Replay(tuple(findings), tuple(rows), most)


def reopened(
    run: RunFile,
    settings: Settings,
    model: BaseClassifier | Classifier,
    dataset: Dataset,
    device: torch.device | str | None,
) -> Sampler:
    """Return a sampler for a run's images, with the noise of `settings`.

    Raises
    ------
    RunFileError
        The run was made with another model or data set, or does not say how.
    """
    execution = recorded_execution(run.path, run.parameters)
    classifier = Classifier.of(model, settings.num_classes, device=device, execution=execution)
    check_same_inputs(run.path, run.parameters, run.whole, classifier, dataset)
    check_probe(run.path, run.parameters, classifier, dataset)
    same_device = here(classifier.device)["device"] == run.parameters.get("device")
    rows = recorded_rows(run) if same_device else None
    return Sampler(classifier, settings.noise_source(), rows=rows)


def images_of(
    run: RunFile, rows: Iterable[int], sampler: Sampler, dataset: Dataset
) -> Generator[Loaded, None, None]:
    """Yield images of a run, as it loaded them."""
    classifier, allow = sampler.classifier, recorded_allow(run.path, run.parameters)
    return load_images(
        dataset, rows, classifier.device, classifier.num_classes, allow, sampler.noise.levels
    )


def chosen_rows(run: RunFile, number: int, seed: int | None) -> dict[int, Row]:
    """Return some rows that can be replayed, by their images in order."""
    whole = [record.image_id for record in run.records() if record.error is None]
    draw = np.random.default_rng(seed)
    images = {*draw.choice(whole, min(number, len(whole)), replace=False).tolist()}
    rows = {}
    for row in run.rows():
        if row.image_id in images:
            try:
                row.check(run.settings)
            except ValueError:  # which the verification reports
                continue
            rows[row.image_id] = row
    return rows


def unlike(image: Loaded, row: Row) -> str | None:
    """Return how an image differs from the one that a row is of, if it does."""
    if image.error is not None:
        return f"Image {image.image_id}: it was certified, but now {image.error}."
    if image.label != row.label:
        return f"Image {image.image_id}: label {row.label}, but the data set says {image.label}."
    return None


def _cast(sampler: Sampler, settings: Settings, row: Row, pixels: torch.Tensor) -> Row:
    """Return the row with its votes as they come out here."""
    ends = row.looks.sum(1).tolist()
    starts = [0, *ends[:-1]]
    stream = PREDICTION if settings.predicts else ESTIMATION
    # What a look adds to the one before is cast as if it were an image of its own.
    images = pixels.expand(len(ends), *pixels.shape)
    added = sampler.count(images, [row.image_id] * len(ends), starts, ends, stream)
    selection: NDArray[np.int64] = row.selection
    if settings.n0:
        selection = sampler.count(pixels[None], [row.image_id], 0, settings.n0, SELECTION)[0]
    return replace(row, selection=selection, looks=added.cumsum(0))


def _moved(row: Row, again: Row) -> int:
    """Return how many votes come out otherwise: of the selection, and at the worst look."""
    selection = int(abs(again.selection - row.selection).sum()) // 2
    return selection + int(abs(again.looks - row.looks).sum(1).max()) // 2


def _differences(
    row: Row, again: Row, moved: int, exact: bool, settings: Settings
) -> Iterator[str]:
    if moved > (0 if exact else MOVED_VOTES * row.n + 1):
        yield f"Image {row.image_id}: {moved} votes come out otherwise when replayed."
    elif moved:
        found = settings.certificates(again.votes()[[row.look]], np.array([row.look]))[0]
        yield from too_good(row, found, "the votes cast again")
