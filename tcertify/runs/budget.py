"""The budget of a run: what a sample must gain, found from the selection samples of a pilot."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tcertify._checks import check_whole
from tcertify.classifiers import Classifier
from tcertify.data import Dataset
from tcertify.errors import StoppedError
from tcertify.runs.machine import Cluster, Job, machine
from tcertify.runs.row import Row
from tcertify.runs.settings import Settings
from tcertify.statistics.allocation import check_budget, plan_sizes, price_of_budget
from tcertify.votes import Votes

Budget = int | datetime.timedelta

#: The price is found from so many images, evenly spread over the run, at most.
_PILOT = 1000

#: After so many of them a budget of time that is too short by far ends the pilot.
_FIRST, _EARLY = 9, 0.5


def check_run_budget(
    budget: Budget | None, settings: Settings, images: int, *, shard: tuple[int, int] | None
) -> None:
    """Refuse a budget that cannot be, or that goes with nothing else that was asked."""
    if budget is None:
        return
    for name in ("radii", "radius_loss", "reserve"):
        if getattr(settings, name) is not None:
            raise ValueError(f"`budget` must not be given with `{name}`.")
    if shard is not None:
        raise ValueError(
            "`budget` must not be given with `shard`, since it is worked out from all images at"
            " once."
        )
    if isinstance(budget, datetime.timedelta):
        if budget <= datetime.timedelta(0):
            raise ValueError(f"`budget` must be positive, got {budget}.")
    else:
        check_budget(check_whole("budget", budget), images, _least(settings))


def with_budget(
    settings: Settings,
    budget: Budget,
    classifier: Classifier,
    dataset: Dataset,
    job: Job,
    out: str | os.PathLike[str],
    *,
    cluster: Cluster | None,
    there: Settings | None,
) -> Settings:
    """Return the settings with a plan for the budget; `there` are those of a run that is resumed,
    which keeps its plan.

    The pilot draws the selection samples of the images that it looks at as the run will, and looks
    at no vote that certifies. A budget of time becomes samples at the speed of the pilot.
    """
    if there is not None and there.budget is not None:
        return replace(
            settings,
            sizes=there.sizes,
            budget=there.budget if isinstance(budget, datetime.timedelta) else budget,
            price=there.price,
            price_share=there.price_share,
        )
    rows, samples = _pilot(settings, budget, classifier, dataset, job, out, cluster)
    votes = Votes.from_columns(
        np.array([row.selection for row in rows]),
        np.array([row.selection[:-1].argmax() for row in rows]),
    )
    sizes = plan_sizes(settings.n, settings.alpha)
    price = price_of_budget(
        votes,
        sizes,
        [row.image_id for row in rows],
        alpha=settings.alpha,
        budget=max(samples * len(rows) // len(job.whole), len(rows) * sizes[0]),
        wanted=votes.top == [row.label for row in rows],
    )
    return settings.within(samples, price)


def _pilot(
    settings: Settings,
    budget: Budget,
    classifier: Classifier,
    dataset: Dataset,
    job: Job,
    out: str | os.PathLike[str],
    cluster: Cluster | None,
) -> tuple[list[Row], int]:
    """Return rows that hold selection samples, and the estimation samples that the budget buys."""
    began = time.monotonic()
    count = min(len(job.whole), _PILOT)
    chosen = [job.whole[place * len(job.whole) // count] for place in range(count)]
    pilot = replace(
        settings,
        method="predict",
        looks=(1,),
        look_levels=(settings.alpha,),
        charge_noise=False,
    )
    seen, at_work = _Seen(Path(out)), machine if cluster is None else cluster
    try:
        with at_work(classifier, dataset, replace(job, settings=pilot)) as hands:
            seen.add(hands.certify(chosen[:1], seen))  # takes longer than those to come
            started = time.monotonic()
            seen.add(hands.certify(chosen[1:_FIRST], seen))
            samples = _bought(settings, budget, len(job.whole), began, started, seen, _EARLY)
            seen.add(hands.certify(chosen[_FIRST:], seen))
    except StoppedError as error:
        failed = str(error).removeprefix("Stopped: ").partition(" What was")[0]
        raise StoppedError(
            f"Stopped before the run, while its budget was planned: {failed}"
        ) from error
    samples = _bought(settings, budget, len(job.whole), began, started, seen)
    rows = [row for row in seen.rows if row.error is None]
    if not rows:
        raise StoppedError("Stopped before the run: its budget could be planned from no image.")
    return rows, samples


def _bought(
    settings: Settings,
    budget: Budget,
    images: int,
    began: float,
    started: float,
    seen: _Seen,
    lenient: float = 1.0,
) -> int:
    """Return the estimation samples of a budget: of time, at the speed since `started`."""
    if not isinstance(budget, datetime.timedelta):
        return budget
    now, timed = time.monotonic(), max(1, len(seen.rows) - 1)
    rate = timed * (settings.n0 + 1) / (now - started)
    samples = int((budget.total_seconds() - (now - began)) * rate) - images * settings.n0
    least = images * _least(settings)
    if samples < least * lenient:
        raise ValueError(
            f"`budget` of {budget} is too short: at {rate:.0f} samples/s it leaves"
            f" {max(0, samples)} for estimation, and a first look at {images} images takes {least}."
        )
    return samples


def _least(settings: Settings) -> int:
    """Return the samples of the smallest plan of an image."""
    return plan_sizes(settings.n, settings.alpha)[0]


@dataclass(frozen=True)
class _Seen:
    """The rows of the pilot. What it warns of, the run itself warns of again."""

    path: Path
    rows: list[Row] = field(default_factory=list)

    def add(self, rows: Iterable[Row]) -> None:
        self.rows.extend(rows)

    def warn(self, text: str) -> None:
        pass
