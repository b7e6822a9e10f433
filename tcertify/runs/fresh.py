"""Fresh votes: images of a run, sampled again under noise that nobody could know beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import fisher_exact

from tcertify.classifiers import Classifier
from tcertify.classifiers.execution import BaseClassifier
from tcertify.data import Dataset
from tcertify.runs.file import RunFile
from tcertify.runs.replay import chosen_rows, images_of, reopened, unlike
from tcertify.runs.row import Row
from tcertify.runs.seeds import random_seed
from tcertify.runs.settings import Settings
from tcertify.sampling import ESTIMATION, PREDICTION, SELECTION, Sampler

#: The probability that an honest run is accused, over all its images together.
LEVEL = 0.001

#: Votes that choose the class whose votes are compared, where the run has none for that.
_CHOOSING = 100


@dataclass(frozen=True)
class Fresh:
    """What the votes under new noise say: sentences, the images sampled, and the seed."""

    findings: tuple[str, ...]
    images: tuple[int, ...]
    seed: int


def cast_fresh(
    run: RunFile,
    number: int,
    model: BaseClassifier | Classifier,
    dataset: Dataset,
    *,
    device: torch.device | str | None = None,
    seed: int | None = None,
) -> Fresh:
    """Sample images again under a new seed, chosen at random, and compare; see `verify_run`."""
    settings = replace(run.settings, seed=random_seed())
    sampler = reopened(run, settings, model, dataset, device)
    rows = chosen_rows(run, number, seed)
    findings = []
    with closing(images_of(run, rows, sampler, dataset)) as images:
        for image in images:
            row = rows[image.image_id]
            if wrong := unlike(image, row):
                findings.append(wrong)
            else:
                level = LEVEL / len(rows)
                findings += _difference(sampler, settings, row, image.pixels, level)
    return Fresh(tuple(findings), tuple(rows), settings.seed)


def _difference(
    sampler: Sampler, settings: Settings, row: Row, pixels: torch.Tensor, level: float
) -> Iterator[str]:
    """Compare the votes for one class, which neither sample has chosen, by Fisher's exact test.

    Only the first look of a run has as many votes whatever they are, so it is the one compared.
    """
    n, stream = int(row.looks[0].sum()), PREDICTION if settings.predicts else ESTIMATION
    where = pixels[None], [row.image_id], 0
    chosen = row.top
    if settings.predicts:
        chosen = int(sampler.count(*where, _CHOOSING, SELECTION)[0, :-1].argmax())
    there, here = int(row.looks[0, chosen]), int(sampler.count(*where, n, stream)[0, chosen])
    table = np.array([[there, n - there], [here, n - here]])
    p = float(fisher_exact(table).pvalue)
    if p <= level:
        yield (
            f"Image {row.image_id}: class {chosen} has {there} of {n} votes in the file, and {here}"
            f" under new noise (p = {p:.1g}): it was not certified by independent noise."
        )
