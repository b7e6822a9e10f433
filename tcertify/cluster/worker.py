"""A worker of a cluster: the single-machine engine in a process of Ray's."""

from __future__ import annotations

import os
import pickle
import platform
import socket
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tcertify.classifiers import Classifier, Execution
from tcertify.data import as_dataset
from tcertify.errors import RunError
from tcertify.runs.images import described
from tcertify.runs.machine import Job, Machine, machine
from tcertify.runs.provenance import here
from tcertify.runs.row import Row
from tcertify.sampling.defects import Defect


@dataclass(frozen=True)
class Order:
    """What a worker needs to begin: a job, and where classifier and data set come from.

    `load` returns the base classifier, on the CPU, and the data set.
    """

    job: Job
    load: Callable[[], tuple[Any, Any]]
    num_classes: int
    execution: Execution
    folder: str


@dataclass(frozen=True)
class Begun:
    """What a worker says of itself once it has begun."""

    parameters: dict[str, Any]
    environment: dict[str, Any]
    warnings: list[str]
    batch_size: int


@dataclass
class Outcome:
    """What became of a task.

    `rows` are finished; `rest` are those of the last images, which failed and may be one fault.
    `error` ends the run; `failed` says why the task, and it alone, was not done.
    """

    path: Path
    rows: list[Row] = field(default_factory=list)
    rest: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    value: Any = None
    error: RunError | None = None
    failed: str | None = None

    def add(self, rows: Iterable[Row]) -> None:
        """Take rows."""
        self.rows += rows

    def warn(self, text: str) -> None:
        """Take a warning of the run."""
        self.warnings.append(text)


class Worker:
    """A `Machine` that hands back what it makes; what it raises, it returns as an `Outcome`.

    Parameters
    ----------
    threads : int
        Of torch, and of our kernels with it.
    """

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._machine: Machine
        self._stack = ExitStack()

    def name(self) -> dict[str, Any]:
        """Return what tells this worker, its machine and its versions."""
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            **here(_device()),
        }

    def begin(self, order: bytes) -> Outcome:
        """Load the classifier and the data set, and check them; the value is `Begun`."""
        return self._done(Path(), lambda outcome: self._begun(pickle.loads(order)))

    def check_probe(self, path: Path, parameters: dict[str, Any]) -> Outcome:
        """Hold the classifier against the logits that the run recorded."""
        return self._done(path, lambda _: self._machine.check_probe(path, parameters))

    def certify(self, path: Path, image_ids: list[int], begun: dict[int, Row]) -> Outcome:
        """Make rows of images, from the votes with which they were `begun`."""

        def certified(outcome: Outcome) -> None:
            outcome.rest = self._machine.certify(image_ids, outcome, begun.get)

        return self._done(path, certified)

    def count(
        self,
        path: Path,
        pixels: NDArray[np.float32],
        image_ids: list[int],
        start: list[int],
        stop: list[int],
        stream: int,
    ) -> Outcome:
        """Count votes; the value is their array."""
        images = torch.tensor(pixels)
        return self._done(
            path, lambda _: self._machine.count(images, image_ids, start, stop, stream)
        )

    def recheck(
        self, path: Path, pixels: NDArray[np.float32], image_ids: list[int], stream: int
    ) -> Outcome:
        """Cast votes again; the value is the list of defects that were found."""

        def rechecked(_: Outcome) -> list[Defect]:
            return self._machine.recheck(torch.tensor(pixels), image_ids, 0, stream)

        return self._done(path, rechecked)

    def finish(self, path: Path) -> Outcome:
        """Tell what was found on the way."""
        return self._done(path, lambda outcome: self._machine.finish(outcome))

    def _begun(self, order: Order) -> Begun:
        with suppress(OSError):  # then what is not found there is named
            os.chdir(order.folder)
        device = _device()
        model, data = order.load()
        if isinstance(model, torch.nn.Module):
            model = model.to(device)
        classifier = Classifier(model, order.num_classes, device=device, execution=order.execution)
        dataset = as_dataset(data, num_classes=order.num_classes)
        self._stack.close()
        found = self._stack.enter_context(machine(classifier, dataset, order.job))
        self._machine = found
        return Begun(
            found.parameters, found.environment, found.warnings, found.sampler.batch_size or 1
        )

    def _done(self, path: Path, work: Callable[[Outcome], Any]) -> Outcome:
        outcome = Outcome(path)
        try:
            outcome.value = work(outcome)
        except RunError as error:
            outcome.error = type(error)(*map(str, error.args))
        except Exception as error:
            outcome.failed = described(error)
        return outcome


def _device() -> torch.device:
    """Return the GPU that Ray gave this worker, or the CPU."""
    import ray

    return torch.device("cuda:0" if ray.get_gpu_ids() else "cpu")
