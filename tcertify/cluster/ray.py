"""A run on Ray: workers make the rows, the driver alone writes the run file."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tcertify._checks import check_real, check_whole
from tcertify.classifiers import Classifier
from tcertify.cluster.casting import ClusterCaster
from tcertify.cluster.connection import connected
from tcertify.cluster.pool import FAILURES_IN_A_ROW, Hand, Pool, Task
from tcertify.cluster.rates import Rates
from tcertify.cluster.worker import Begun, Order, Outcome, Worker
from tcertify.data import Dataset
from tcertify.data.fingerprint import data_fingerprint
from tcertify.errors import RunFileError, StoppedError
from tcertify.runs.file import differences
from tcertify.runs.images import load_images
from tcertify.runs.machine import Hands, Job, noted
from tcertify.runs.provenance import check_same_probe, here, process
from tcertify.runs.rounds import Before, Rounds, Sink, not_begun
from tcertify.runs.row import Row

#: From so many samples on, an image is cut over all workers rather than given to one.
CUT = 10**7

#: A shard takes a worker about so many seconds, and has so many images at most.
_SECONDS, _MOST_IMAGES = 5.0, 1024

#: The first shard of each worker fills so many batches; the next may be so many times as large.
_FIRST_BATCHES, _GROWTH = 16, 4

#: What workers must have as the driver has it, or else rows would not be those of one process.
_SHARED = ("tcertify", "torch", "python")


@dataclass(frozen=True)
class Ray:
    """The workers of a Ray cluster, for `certify_dataset` and `predict_dataset`: the rows are those
    of one process, to the vote.

    Each worker holds the classifier once and makes the rows of one shard of images after the other;
    the driver, which calls `certify_dataset`, alone writes the run file. A worker that ends is
    replaced, and its shard cast again; a shard that fails three times is given up, and the images
    are missing from the run, which a resume tries again. From n = 10^7 on the samples of each image
    are cut over all workers.

    Parameters
    ----------
    address : str, optional
        ``HOST:PORT`` of a cluster, or ``"auto"`` for the one that this machine belongs to. Without
        it one of this machine alone is started for the run, which listens on localhost only.
    workers : int, optional
        As many as the cluster has room for, without it.
    cpus : float
        Cores of each worker, and threads of torch there.
    gpus : float, optional
        GPUs of each worker, a fraction where several share one. Without it 1 on a cluster that has
        any, else 0. A worker with a GPU moves the classifier there.
    load : callable, optional
        Called on each worker, returns (base classifier, data set) as they are given to
        `certify_dataset`; without it, these are pickled. Needed for what should not travel: a large
        data set is better read where it lies.
    on_report : callable, optional
        Called once a minute with a line about the rates of the workers.

    Raises
    ------
    ValueError
        Arguments out of range, or more workers than the cluster has room for.
    ModuleNotFoundError
        Ray is not installed.
    RunError
        No cluster answers, or a worker has another model, other data or other versions.
    """

    address: str | None = None
    workers: int | None = None
    cpus: float = 1
    gpus: float | None = None
    load: Callable[[], tuple[Any, Any]] | None = None
    on_report: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        if self.workers is not None:
            check_whole("workers", self.workers)
        if not 0 < check_real("cpus", self.cpus) < 2**16:
            raise ValueError(f"`cpus` must be positive, got {self.cpus}.")
        if self.gpus is not None and not 0 <= check_real("gpus", self.gpus) < 2**16:
            raise ValueError(f"`gpus` must not be negative, got {self.gpus}.")

    @contextmanager
    def __call__(self, classifier: Classifier, dataset: Dataset, job: Job) -> Iterator[Hands]:
        """Yield the workers, all of them ready for the first image."""
        with connected(self.address) as ray:
            gpus, workers = self._room(ray.cluster_resources())
            actor = ray.remote(num_cpus=self.cpus, num_gpus=gpus)(Worker)
            threads = max(1, int(self.cpus))
            crew = Crew(
                ray,
                lambda: actor.remote(threads),
                workers,
                classifier,
                dataset,
                job,
                ray.put(_pickled(ray, self._order(classifier, dataset, job))),
                self.on_report,
            )
            try:
                crew.start()
                yield crew
            finally:
                crew.close()

    def _room(self, has: dict[str, float]) -> tuple[float, int]:
        """Return the GPUs of a worker and how many workers there are to be."""
        gpus = self.gpus if self.gpus is not None else min(1.0, has.get("GPU", 0.0))
        room = int(has.get("CPU", 0.0) / self.cpus + 1e-9)
        if gpus:
            room = min(room, int(has.get("GPU", 0.0) / gpus + 1e-9))
        if room < (self.workers or 1):
            has_room = f"{self.cpus:g} cores and {gpus:g} GPUs each, of {has.get('CPU', 0):g} cores"
            raise ValueError(
                f"`workers` must be at most {room}, which is what the cluster has room for with"
                f" {has_room} and {has.get('GPU', 0):g} GPUs."
            )
        return gpus, self.workers or room

    def _order(self, classifier: Classifier, dataset: Dataset, job: Job) -> Order:
        given = _Given(classifier.base_classifier, dataset)
        return Order(
            job,
            self.load or given,
            classifier.num_classes,
            classifier.execution,
            os.getcwd(),
        )


@dataclass(frozen=True)
class _Given:
    """What was given to `certify_dataset`, to be pickled."""

    model: Any
    dataset: Any

    def __call__(self) -> tuple[Any, Any]:
        return self.model, self.dataset


def _pickled(ray: Any, order: Order) -> bytes:
    try:
        return bytes(ray.cloudpickle.dumps(order))
    except Exception as error:
        raise ValueError(
            "`model` and `dataset` cannot be pickled for the workers, which `load` would spare:"
            f" {type(error).__name__}: {error}"
        ) from error


class Crew:
    """The workers of a cluster, as `Hands`."""

    def __init__(
        self,
        ray: Any,
        spawn: Callable[[], Any],
        workers: int,
        classifier: Classifier,
        dataset: Dataset,
        job: Job,
        order: Any,
        on_report: Callable[[str], None] | None,
    ) -> None:
        self._dataset, self._job, self._workers = dataset, job, workers
        self._on_report = on_report
        self._streak: list[Row] = []
        self._here = _versions()
        self._inputs = {
            "model": classifier.fingerprint(),
            "data": data_fingerprint(dataset, sorted(job.whole)),
        }
        self._first: Begun | None = None
        self._pool = Pool(ray, spawn, workers, self._wrong_versions, self._wrong_parameters, order)

    def start(self) -> None:
        """Wait for the workers."""
        self._pool.start()
        assert self._first is not None
        self.parameters = self._first.parameters
        self.warnings = self._first.warnings
        shape = self.parameters["shape"]
        if shape is not None:  # the levels of the looks may depend on it
            self._job = replace(self._job, settings=self._job.settings.of_shape(shape))
        facts = [hand.facts for hand in self._pool.hands if hand.begun]
        self.environment = {**self._first.environment, **process(), "workers": facts}

    def close(self) -> None:
        """End the workers."""
        self._pool.close()

    def check_probe(self, path: Path, parameters: dict[str, Any]) -> None:
        """Raise unless each worker's classifier gives the logits that a run recorded."""
        for hand, outcome in self._pool.everyone("check_probe", path, parameters):
            _raise(hand, outcome)

    def certify(self, image_ids: Iterable[int], sink: Sink, begun: Before = not_begun) -> list[Row]:
        """Make rows of images, from the votes with which they were `begun`; return those of the
        last, which failed and may be one fault.
        """
        pending = [*image_ids]
        self._rates = Rates(self._pool, len(pending), self._on_report)
        self._pool.on_tick = lambda: self._tick(sink)
        rest = self._certify_cut if self._job.settings.n >= CUT else self._certify_shards
        found = rest(pending, sink, begun)
        self._tick(sink)
        return found

    def finish(self, sink: Sink) -> None:
        """Tell what the workers found on the way; raise where it makes the certificates void."""
        for hand, outcome in self._pool.everyone("finish", sink.path):
            self._take(None, hand, outcome, sink)
        self._tick(sink)

    def _certify_shards(self, pending: list[int], sink: Sink, begun: Before) -> list[Row]:
        shards = _Shards(pending, sink.path, self._workers, self._first_images(), self._pool, begun)
        for task, hand, outcome in self._pool.run(shards):
            sink.add(outcome.rows)
            rows = [*outcome.rows, *outcome.rest]
            samples = self._samples(rows) - self._samples(task.arguments[2].values())
            self._rates.add(hand, len(rows), samples)
            self._settle(outcome, sink)
            self._take(task, hand, outcome, sink)
        return self._streak

    def _settle(self, outcome: Outcome, sink: Sink) -> None:
        """Write failures once another image has succeeded; after three in a row, stop."""
        if any(row.error is None for row in outcome.rows):
            sink.add(self._streak)
            self._streak = []
        self._streak += outcome.rest
        if len(self._streak) >= FAILURES_IN_A_ROW:
            last = self._streak[-1]
            raise StoppedError(
                f"Stopped: {FAILURES_IN_A_ROW} images in a row failed, image {last.image_id} with"
                f" {last.error}. What was finished is in `{sink.path}`; resume continues it."
            )

    def _samples(self, rows: Collection[Row]) -> int:
        return sum(row.n for row in rows) + self._job.settings.n0 * len(rows)

    def _first_images(self) -> int:
        assert self._first is not None
        settings = self._job.settings
        return max(1, _FIRST_BATCHES * self._first.batch_size // (settings.n0 + settings.n))

    def _certify_cut(self, pending: list[int], sink: Sink, begun: Before) -> list[Row]:
        """Run the rounds here, the samples of each image cut over the workers."""
        assert self._first is not None
        settings, allow = self._job.settings, self._job.allow

        def answered(task: Task, hand: Hand, outcome: Outcome) -> None:
            if task.method == "count":
                self._rates.add(hand, 0, int(task.size))
            self._take(task, hand, outcome, sink)

        caster = ClusterCaster(
            self._pool,
            sink.path,
            self._first.batch_size,
            self._workers,
            settings.num_classes,
            answered,
        )
        shape = self._first.parameters["shape"]
        images = load_images(
            self._dataset,
            pending,
            torch.device("cpu"),
            settings.num_classes,
            allow,
            settings.levels,
            None if shape is None else torch.Size(shape),
        )
        rounds = Rounds(caster, settings, allow, caster.recheck)
        return rounds.certify(noted(images, sink), _Counted(sink, self._rates), begun)

    def _take(self, task: Task | None, hand: Hand, outcome: Outcome, sink: Sink) -> None:
        """Keep what a worker warned of; raise what ends the run."""
        for text in outcome.warnings:
            sink.warn(text)
        if task is None or outcome.error is not None:
            _raise(hand, outcome)

    def _tick(self, sink: Sink) -> None:
        """Keep what the pool has to say of its workers."""
        while self._pool.warnings:
            sink.warn(self._pool.warnings.popleft())
        self._rates.tick()

    def _wrong_versions(self, facts: dict[str, Any]) -> str | None:
        there = {name: facts[name] for name in _SHARED}
        return _against(there, self._here, "the driver")

    def _wrong_parameters(self, begun: Begun) -> str | None:
        """Return how a worker differs from the driver, or from the first worker."""
        inputs = {name: begun.parameters[name] for name in self._inputs}
        wrong = _against(inputs, self._inputs, "the driver")
        if wrong or self._first is None:
            self._first = self._first or (None if wrong else begun)
            return wrong
        first = self._first.parameters
        try:
            there = Path("its run"), Path("the first worker's")
            check_same_probe(*there, begun.parameters, first, self._job.settings.num_classes)
        except RunFileError as error:
            return str(error)
        return _against(begun.parameters, first, "the first worker")


@dataclass(frozen=True)
class _Counted:
    """A sink that counts images."""

    sink: Sink
    rates: Rates

    @property
    def path(self) -> Path:
        return self.sink.path

    def add(self, rows: Iterable[Row]) -> None:
        rows = [*rows]
        self.rates.done += len(rows)
        self.sink.add(rows)

    def warn(self, text: str) -> None:
        self.sink.warn(text)


class _Shards:
    """Cuts the images that are left into shards: of some seconds each, and small at the end."""

    def __init__(
        self,
        pending: list[int],
        path: Path,
        workers: int,
        first: int,
        pool: Pool,
        begun: Before,
    ) -> None:
        self._pending, self._at, self._path, self._begun = pending, 0, path, begun
        self._workers, self._largest, self._pool = workers, first, pool

    def __call__(self) -> Task | None:
        left = len(self._pending) - self._at
        if not left:
            return None
        images = self._pending[self._at : self._at + self._size(left)]
        self._at += len(images)
        named = f"image {images[0]}"
        if len(images) > 1:
            named = f"{len(images)} images from {images[0]} to {images[-1]}"
        begun = {image: row for image in images if (row := self._begun(image)) is not None}
        return Task("certify", (self._path, images, begun), named, len(images))

    def _size(self, left: int) -> int:
        """Return how many images: as many as take some seconds, and no more than leave half of the
        rest to the others.
        """
        seconds = self._pool.seconds_per_size()
        if seconds:
            wanted = min(int(_SECONDS / seconds), _GROWTH * self._largest, _MOST_IMAGES)
            self._largest = max(self._largest, wanted)
        else:
            wanted = self._largest
        return max(1, min(wanted, -(-left // (2 * self._workers))))


def _versions() -> dict[str, str]:
    return {**here(torch.device("cpu")), "python": platform.python_version()}


def _against(there: dict[str, Any], expected: dict[str, Any], whose: str) -> str | None:
    """Return how values differ from those expected, or None."""
    wanted = {name: expected[name] for name in there}
    found = differences(there, wanted)
    return "; ".join(f"`{name}` is {a} there and {b} at {whose}" for name, a, b in found) or None


def _raise(hand: Hand, outcome: Outcome) -> None:
    if outcome.error is not None:
        raise outcome.error
    if outcome.failed is not None:
        raise StoppedError(f"Stopped: {hand.name} failed: {outcome.failed}.")
