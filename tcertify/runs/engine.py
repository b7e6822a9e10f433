"""The certification engine: a whole data set, packed into full batches, resumable at any moment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from typing import Any, Literal

import torch

from tcertify._checks import check_whole
from tcertify.classifiers import Classifier, Execution
from tcertify.classifiers.execution import BaseClassifier
from tcertify.data import Dataset, as_dataset
from tcertify.errors import RunError, StoppedError
from tcertify.runs.file import MAX_PLAN, RunFile, RunWriter
from tcertify.runs.images import Loaded, described, load_images
from tcertify.runs.provenance import (
    check_probe,
    environment,
    provenance,
    recorded_execution,
    recorded_rows,
)
from tcertify.runs.rounds import FAILURES_IN_A_ROW, Rounds
from tcertify.runs.row import MAX_IMAGES
from tcertify.runs.seeds import check_seed, with_seed
from tcertify.runs.settings import Settings
from tcertify.runs.table import RunTable, read_run
from tcertify.sampling import Sampler
from tcertify.sampling.defects import CHANGED_STATE, check_codes, find_defects, remarks, settle
from tcertify.sampling.memory import is_out_of_memory, kept
from tcertify.sampling.noise import MOST_OWED, choose_noise, owed
from tcertify.sampling.tuning import Tuning, tune
from tcertify.statistics.planning import check_useful

Device = torch.device | str | None

#: Images that decide whether a data set that says nothing is one of whole grey levels.
_LOOKED_AT = 16


def certify_dataset(
    model: BaseClassifier | Classifier,
    dataset: Any,
    *,
    sigma: float,
    out: str | os.PathLike[str],
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    method: str = "joint",
    radii: Sequence[float] | None = None,
    noise: str = "auto",
    levels: int | None = None,
    seed: int | str = 0,
    indices: Iterable[int] | None = None,
    num_classes: int | None = None,
    batch_size: int | None = None,
    device: Device = None,
    execution: Execution | Literal["fastest"] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    allow: Iterable[str] = (),
    on_start: Callable[[Settings], None] | None = None,
    on_tuned: Callable[[Tuning], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> RunTable:
    """Certify a data set into a run file: each certificate is wrong with probability at most
    `alpha`, and can be recomputed from the votes that the file keeps.

    Whatever ends the run, the images that were finished are in the file; `resume` continues it,
    and the rows are then those of a run that was never interrupted.

    Parameters
    ----------
    model : torch module or callable
        The base classifier, from a batch (B, ...) to logits (B, C), on the device to use.
    dataset : data set, sequence of (image, label), or pair (images, labels)
        Whatever `tcertify.data.as_dataset` takes, such as a torch ``Dataset``; images in [0, 1] of
        one shape. float64 is rounded to float32, and the run says so.
    sigma : float
        Standard deviation of the noise, in the units of the images.
    out : path
        The run file.
    n0, n : int
        Selection and estimation samples per image.
    alpha : float
        Failure probability of each certificate, in (0, 1).
    method : {"joint", "t-certify", "certify"}
        As in `certify_counts`.
    radii : sequence of float, optional
        Stop sampling an image once it is decided which of these radii it certifies, or at the
        first look where the selected class is not its label. Each certificate is as valid as the
        full run's, for a fraction of the samples, but its radius may be smaller: read certified
        accuracy at these radii only. There it is the full run's but for images whose radius lies
        within a hair of one of them: 0.4 to 1.7 of 500 images, as measured.
    noise : {"auto", "integer", "gaussian"}
        Integer noise certifies images of whole grey levels as executed, float rounding included
        (docs/guarantees.md). "auto" takes it where ``dataset.levels`` says the levels, or, without
        `levels` and those, where the first images are of 8 bits, and `sigma` is at least 0.3 grey
        levels; else Gaussian noise. A resume under "auto" keeps the noise of the run. It is decided
        once: an image off the grid that comes later fails.
    levels : int, optional
        Grey levels above 0 of integer noise; those of the data set without it, else 255. Under
        "auto" integer noise is taken if the first images are on their grid.
    seed : int or {"random", "derived"}
        Up to 2^63 - 1. With the index of an image it determines all noise. The default is known to
        whoever made the model or the images. "random" takes one from the system's entropy, or that
        of the run that is resumed; "derived" a hash of model, data and settings, so that nobody
        chooses it.
    indices : iterable of int, optional
        The images to certify; all of them without it.
    num_classes : int, optional
        Width of the logits; without it, the number of classes that the data set says.
    batch_size : int, optional
        Noisy copies per forward pass at most, halved each time memory runs out; automatic
        without it.
    device : torch device or str, optional
        Where a `model` that is no torch module runs.
    execution : Execution or "fastest", optional
        How the classifier is executed; as it is without it. The certificates speak of the
        classifier as executed. "fastest" measures first, on one image, as `tcertify.sampling.tune`
        does, and takes what was fastest, rows of a batch included: bfloat16 where the hardware has
        it. The run records it, and a resume keeps it.
    resume, overwrite : bool
        Continue, or replace, a run file that exists; else it is an error.
    allow : iterable of {"random", "rows", "state", "range"}
        Defects that make certificates void, accepted knowingly and recorded.
    on_start : callable, optional
        Called with the `Settings` of the run, noise and seed among them, before the first sample.
    on_tuned : callable, optional
        Called with the `Tuning` of an execution that is "fastest", unless a resume keeps it.
    on_progress : callable, optional
        Called with the number of images that are done and of images planned.

    Returns
    -------
    RunTable

    Raises
    ------
    ValueError, TypeError
        Arguments out of range, an `n` that can never certify anything, or a ``DataLoader``: the
        noise of an image is drawn from its number, which a loader does not keep.
    RunFileError
        The run file cannot be written, is held by another process, or was made otherwise.
    VoidCertificateError
        The classifier is not a fixed function of one input, or an image lies outside [0, 1].
    StoppedError
        Three images in a row failed: they are not what they should be, or the classifier raised.
    """
    dataset, classes = _opened(dataset, num_classes)
    settings = Settings.make(
        num_classes=classes,
        sigma=sigma,
        n0=n0,
        n=n,
        alpha=alpha,
        method=method,
        radii=radii,
    )
    check_useful(settings.n, settings.look_levels[-1], method=settings.method)
    return _run(
        model,
        dataset,
        settings,
        out,
        noise=noise,
        levels=levels,
        seed=seed,
        plan=_plan(dataset, indices),
        batch_size=batch_size,
        device=device,
        execution=execution,
        resume=resume,
        overwrite=overwrite,
        allow=allow,
        on_start=on_start,
        on_tuned=on_tuned,
        on_progress=on_progress,
    )


def predict_dataset(
    model: BaseClassifier | Classifier,
    dataset: Any,
    *,
    sigma: float,
    out: str | os.PathLike[str],
    n: int = 1000,
    alpha: float = 0.001,
    noise: str = "auto",
    levels: int | None = None,
    seed: int | str = 0,
    indices: Iterable[int] | None = None,
    num_classes: int | None = None,
    batch_size: int | None = None,
    device: Device = None,
    execution: Execution | Literal["fastest"] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    allow: Iterable[str] = (),
    on_start: Callable[[Settings], None] | None = None,
    on_tuned: Callable[[Tuning], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> RunTable:
    """Predict a data set into a run file: a class other than the smoothed classifier's most
    probable one is returned with probability at most `alpha`, per image.

    It abstains where the vote is too close (see `predict_counts`). The arguments are those of
    `certify_dataset`.
    """
    dataset, classes = _opened(dataset, num_classes)
    settings = Settings.make(num_classes=classes, sigma=sigma, n=n, alpha=alpha)
    return _run(
        model,
        dataset,
        settings,
        out,
        noise=noise,
        levels=levels,
        seed=seed,
        plan=_plan(dataset, indices),
        batch_size=batch_size,
        device=device,
        execution=execution,
        resume=resume,
        overwrite=overwrite,
        allow=allow,
        on_start=on_start,
        on_tuned=on_tuned,
        on_progress=on_progress,
    )


def _run(
    model: BaseClassifier | Classifier,
    dataset: Dataset,
    settings: Settings,
    out: str | os.PathLike[str],
    *,
    noise: str,
    levels: int | None,
    seed: int | str,
    plan: list[int],
    batch_size: int | None,
    device: Device,
    execution: Execution | Literal["fastest"] | None,
    resume: bool,
    overwrite: bool,
    allow: Iterable[str],
    on_start: Callable[[Settings], None] | None,
    on_tuned: Callable[[Tuning], None] | None,
    on_progress: Callable[[int, int], None] | None,
) -> RunTable:
    allow = sorted(set(allow))
    check_codes(allow)
    check_seed(seed)
    resumed = resume and not overwrite
    classifier, rows = _as_executed(
        model,
        settings,
        dataset,
        plan,
        out if resumed else None,
        batch_size=batch_size,
        device=device,
        execution=execution,
        allow=allow,
        on_tuned=on_tuned,
    )
    there = _resumed(out) if resumed else None
    settings = _with_noise(settings, noise, levels, dataset, plan, allow, there)
    settings = with_seed(settings, seed, classifier, dataset, plan, there)
    if on_start:
        on_start(settings)
    on_cpu = classifier.device.type == "cpu"
    with kept() if on_cpu else nullcontext(False) as memory_kept:
        sampler = Sampler(classifier, settings.noise_source(), batch_size=batch_size, rows=rows)
        state = classifier.parts().state
        warnings, probed = _check_classifier(sampler, dataset, plan, allow)
        parameters = {**asdict(settings), **provenance(classifier, dataset, plan, allow, probed)}
        facts = environment(sampler, memory_kept)
        with RunWriter(out, parameters, facts, plan, resume=resume, overwrite=overwrite) as writer:
            if resume:
                check_probe(writer.path, writer.parameters, classifier, dataset)
            for text in (*getattr(dataset, "notes", ()), *warnings, *_owed(settings, probed)):
                writer.warn(text)
            pending = [image_id for image_id in plan if image_id not in writer.done]
            images = load_images(
                dataset,
                pending,
                classifier.device,
                settings.num_classes,
                allow,
                settings.levels,
            )
            rounds = Rounds(sampler, settings, writer, len(plan), on_progress, allow)
            with closing(images):
                rounds.certify(_noted(images, writer))
            _check_afterwards(sampler, state, writer, allow)
    return read_run(out)


def _as_executed(
    model: BaseClassifier | Classifier,
    settings: Settings,
    dataset: Dataset,
    plan: list[int],
    resumed: str | os.PathLike[str] | None,
    *,
    batch_size: int | None,
    device: Device,
    execution: Execution | Literal["fastest"] | None,
    allow: list[str],
    on_tuned: Callable[[Tuning], None] | None,
) -> tuple[Classifier, int | None]:
    """Return the classifier of the run, and the rows of a forward pass where they are known."""
    classes = settings.num_classes
    if execution != "fastest":
        return Classifier.of(model, classes, device=device, execution=execution), None
    if isinstance(model, Classifier):
        raise ValueError('`execution` "fastest" needs the model itself, not a Classifier of it.')
    if resumed is not None and os.path.exists(resumed):
        with RunFile(resumed) as run:
            execution, rows = recorded_execution(run.path, run.parameters), recorded_rows(run)
        return Classifier.of(model, classes, device=device, execution=execution), rows
    as_it_is = Classifier.of(model, classes, device=device)
    with closing(
        load_images(dataset, plan[:_LOOKED_AT], as_it_is.device, classes, allow)
    ) as images:
        pixels = next((image.pixels for image in images if image.error is None), None)
    if pixels is None:
        raise StoppedError('Stopped before the run: `execution` "fastest" found no whole image.')
    tuning = tune(model, classes, settings.sigma, pixels, device=device, batch_size=batch_size)
    if on_tuned:
        on_tuned(tuning)
    best = tuning.fastest
    return Classifier(model, classes, device=device, execution=best.execution), best.rows


def _opened(dataset: Any, given: int | None) -> tuple[Dataset, int]:
    """Return the data set as one of ours, and the width of the logits."""
    if given is not None:
        given = check_whole("num_classes", given, minimum=2)
    opened = as_dataset(dataset, num_classes=given)
    classes = opened.num_classes if given is None else given
    return opened, check_whole("num_classes", classes, minimum=2)


def _noted(images: Iterable[Loaded], writer: RunWriter) -> Iterator[Loaded]:
    """Yield the images; that one was rounded is stored with the run."""
    for image in images:
        if image.rounded:
            writer.warn("Images were float64 and were rounded to float32.")
        yield image


def _plan(dataset: Dataset, indices: Iterable[int] | None) -> list[int]:
    """Return the images to certify, each once and in the data set."""
    most = min(len(dataset), MAX_IMAGES) - 1
    wanted = range(len(dataset)) if indices is None else indices
    plan = [check_whole("indices", index, minimum=0, maximum=most) for index in wanted]
    if not plan or len(set(plan)) < len(plan):
        raise ValueError("`indices` must name at least one image, and each once.")
    if len(plan) > MAX_PLAN:
        raise ValueError(f"`indices` must name at most {MAX_PLAN} images, got {len(plan)}.")
    return plan


def _resumed(out: str | os.PathLike[str]) -> Settings | None:
    """Return the settings of the run that is there, if one is."""
    if not os.path.exists(out):
        return None
    with RunFile(out) as run:
        return run.settings


def _with_noise(
    settings: Settings,
    noise: str,
    levels: int | None,
    dataset: Dataset,
    plan: list[int],
    allow: list[str],
    there: Settings | None,
) -> Settings:
    """Return the settings with the noise of the run; its images are looked at only where nobody
    says their levels.
    """
    if there is not None and noise == "auto" and levels is None:
        return replace(settings, noise=there.noise, levels=there.levels)
    cpu = torch.device("cpu")
    first = load_images(dataset, plan[:_LOOKED_AT], cpu, settings.num_classes, allow)
    with closing(first):
        chosen = choose_noise(
            noise,
            settings.sigma,
            levels=levels,
            known=getattr(dataset, "levels", None),
            images=(image.pixels for image in first if image.error is None),
        )
    return replace(settings, noise=chosen.kind, levels=chosen.levels)


def _owed(settings: Settings, probed: Loaded | None) -> list[str]:
    """Return a warning where the noise as it is drawn may cost more than 1 % of alpha."""
    size = 0 if probed is None else probed.pixels.numel()
    n_tau = settings.noise_source().n_tau(settings.n, size, settings.alpha)
    return [] if n_tau is None or n_tau <= MOST_OWED else [owed(n_tau)]


def _check_classifier(
    sampler: Sampler, dataset: Dataset, plan: list[int], allow: list[str]
) -> tuple[list[str], Loaded | None]:
    """Return warnings and the first whole image; raise where certificates would be void on it.

    An image that fails is passed over, as in the run; after three in a row the run is not begun.
    """
    failures, classifier = 0, sampler.classifier
    with closing(
        load_images(
            dataset,
            plan,
            classifier.device,
            classifier.num_classes,
            allow,
            sampler.noise.levels,
        )
    ) as images:
        for image in images:
            reason, cause = image.error, None
            if reason is None:
                try:
                    found = find_defects(sampler, image.pixels[None])
                    return settle([*remarks(classifier), *found], allow), image
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


def _check_afterwards(sampler: Sampler, state: str, writer: RunWriter, allow: list[str]) -> None:
    """Note what the run found out: memory that ran out, a classifier that changed."""
    if sampler.halved:
        writer.warn(f"Memory ran out: the batch size was halved to {sampler.batch_size}.")
    if sampler.classifier.parts().state != state:
        writer.warn(CHANGED_STATE.reason)
        settle([CHANGED_STATE], allow)
