"""One machine at work on a run: classifier and data set, checked, and images that become rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from numpy.typing import ArrayLike, NDArray

from tcertify.classifiers import Classifier
from tcertify.data import Dataset
from tcertify.errors import RunError, StoppedError
from tcertify.runs.images import Loaded, described, load_images
from tcertify.runs.provenance import check_probe, environment, provenance
from tcertify.runs.rounds import FAILURES_IN_A_ROW, Before, Rounds, Sink, not_begun
from tcertify.runs.row import Row
from tcertify.runs.settings import Settings
from tcertify.sampling import Sampler
from tcertify.sampling.defects import (
    CHANGED_STATE,
    Defect,
    find_defects,
    recheck,
    remarks,
    settle,
)
from tcertify.sampling.memory import is_out_of_memory, kept
from tcertify.sampling.noise import MOST_OWED, owed
from tcertify.statistics.planning import check_useful


@dataclass(frozen=True)
class Job:
    """What a run is to do, all of it decided: the same for each machine that works on it.

    `whole` are the images of the whole run, where this is a shard of it; `rows` are those of a
    forward pass, where they were measured.
    """

    settings: Settings
    whole: list[int]
    allow: list[str]
    batch_size: int | None
    rows: int | None = None


class Hands(Protocol):
    """Who makes rows of images: a `Machine`, or several of them.

    Attributes
    ----------
    parameters, environment : dict
        What the rows depend on, and what is worth knowing besides.
    warnings : list of str
        What was found before the first row.
    """

    parameters: dict[str, Any]
    environment: dict[str, Any]
    warnings: list[str]

    def check_probe(self, path: Path, parameters: dict[str, Any]) -> None:
        """Raise unless the classifier gives the logits that a run recorded, up to rounding."""

    def certify(self, image_ids: Iterable[int], sink: Sink, begun: Before = not_begun) -> list[Row]:
        """Make rows of images, from the votes with which they were `begun`; return those of the
        last, which failed and may be one fault.
        """

    def finish(self, sink: Sink) -> None:
        """Tell what was found on the way; raise where it makes the certificates void."""


#: From a classifier, a data set and a job to whoever does it; leaving it ends the work.
Cluster = Callable[[Classifier, Dataset, Job], AbstractContextManager[Hands]]


@contextmanager
def machine(classifier: Classifier, dataset: Dataset, job: Job) -> Iterator[Machine]:
    """Yield this machine, ready for the first image; what it frees is kept until it leaves."""
    on_cpu = classifier.device.type == "cpu"
    with kept() if on_cpu else nullcontext(False) as memory_kept:
        yield Machine(classifier, dataset, job, memory_kept)


class Machine:
    """A classifier and a data set in this process, as `Hands`.

    Raises
    ------
    VoidCertificateError
        The classifier is not a fixed function of one input, or an image lies outside [0, 1].
    StoppedError
        Three images in a row failed before the run.
    """

    def __init__(
        self, classifier: Classifier, dataset: Dataset, job: Job, memory_kept: bool
    ) -> None:
        self._classifier, self._dataset = classifier, dataset
        self._shape: torch.Size | None = None
        self.job, noise = job, job.settings.noise_source()
        self.sampler = Sampler(classifier, noise, batch_size=job.batch_size, rows=job.rows)
        self._state = classifier.parts().state
        warnings, probed = self._check_classifier()
        self._shape = None if probed is None else probed.pixels.shape
        settings = _of_shape(job.settings, self._shape)
        self.job = replace(job, settings=settings)
        self.warnings = [*getattr(dataset, "notes", ()), *warnings, *_owed(settings)]
        made_with = provenance(classifier, dataset, job.whole, job.allow, probed)
        self.parameters = {**asdict(settings), **made_with}
        self.environment = environment(self.sampler, memory_kept)
        self._rounds = Rounds(self.sampler, settings, job.allow)

    def check_probe(self, path: Path, parameters: dict[str, Any]) -> None:
        """Raise unless the classifier gives the logits that a run recorded, up to rounding."""
        check_probe(path, parameters, self._classifier, self._dataset)

    def certify(self, image_ids: Iterable[int], sink: Sink, begun: Before = not_begun) -> list[Row]:
        """Make rows of images, from the votes with which they were `begun`; return those of the
        last, which failed and may be one fault.
        """
        with closing(self._images(image_ids)) as images:
            return self._rounds.certify(noted(images, sink), sink, begun)

    def count(
        self,
        pixels: torch.Tensor,
        image_ids: ArrayLike,
        start: ArrayLike,
        stop: ArrayLike,
        stream: int,
    ) -> NDArray[Any]:
        """Count votes as `Sampler.count` does, of images on any device."""
        moved = pixels.to(self._classifier.device)
        return self.sampler.count(moved, image_ids, start, stop, stream)

    def recheck(
        self, pixels: torch.Tensor, image_ids: ArrayLike, first: ArrayLike, stream: int
    ) -> list[Defect]:
        """Cast votes again as `tcertify.sampling.defects.recheck` does, of images on any device."""
        moved = pixels.to(self._classifier.device)
        return recheck(self.sampler, moved, image_ids, first, stream)

    def finish(self, sink: Sink) -> None:
        """Tell what was found on the way: memory that ran out, a classifier that changed."""
        if self.sampler.halved:
            sink.warn(f"Memory ran out: the batch size was halved to {self.sampler.batch_size}.")
        if self._classifier.parts().state != self._state:
            sink.warn(CHANGED_STATE.reason)
            settle([CHANGED_STATE], self.job.allow)

    def _images(self, image_ids: Iterable[int]) -> Any:
        settings = self.job.settings
        return load_images(
            self._dataset,
            image_ids,
            self._classifier.device,
            settings.num_classes,
            self.job.allow,
            settings.levels,
            self._shape,
        )

    def _check_classifier(self) -> tuple[list[str], Loaded | None]:
        """Return warnings and the first whole image; raise where certificates would be void on it.

        An image that fails is passed over, as in the run; after three in a row the run is not
        begun.
        """
        failures = 0
        with closing(self._images(self.job.whole)) as images:
            for image in images:
                reason, cause = image.error, None
                if reason is None:
                    try:
                        found = find_defects(self.sampler, image.pixels[None])
                        told = settle([*remarks(self._classifier), *found], self.job.allow)
                        return told, image
                    except Exception as error:
                        if isinstance(error, RunError) or is_out_of_memory(error):
                            raise
                        reason, cause = described(error), error
                failures += not image.excused
                if failures == FAILURES_IN_A_ROW:
                    raise StoppedError(
                        f"Stopped before the run: {failures} images in a row failed, image"
                        f" {image.image_id} with {reason}."
                    ) from cause
        return ["No image could be classified, so the classifier was not checked."], None


def noted(images: Iterable[Loaded], sink: Sink) -> Iterator[Loaded]:
    """Yield the images; that one was rounded is stored with the run."""
    for image in images:
        if image.rounded:
            sink.warn("Images were float64 and were rounded to float32.")
        yield image


def _of_shape(settings: Settings, shape: torch.Size | None) -> Settings:
    """Return the settings for images of a shape, charged for its noise if that was asked."""
    if shape is None:
        if settings.charge_noise:
            raise StoppedError("`charge_noise` needs the size of an image, and none is whole.")
        return settings
    settings = settings.of_shape(shape)
    if settings.charge_noise and not settings.predicts:
        check_useful(settings.n, settings.look_levels[-1], method=settings.method)
    return settings


def _owed(settings: Settings) -> list[str]:
    """Return a warning where the noise as it is drawn may cost more than 1 % of alpha."""
    n_tau = None if settings.charge_noise else settings.n_tau
    return [] if n_tau is None or n_tau <= MOST_OWED else [owed(n_tau)]
