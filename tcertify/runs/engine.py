"""The certification engine: a whole data set, packed into full batches, resumable at any moment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from tcertify._checks import check_whole
from tcertify.data.fingerprint import data_fingerprint
from tcertify.runs.file import RunWriter
from tcertify.runs.provenance import describe_environment, device_name, versions
from tcertify.runs.settings import Settings
from tcertify.runs.table import RunTable, read_run
from tcertify.statistics.planning import check_useful

if TYPE_CHECKING:
    import torch

    from tcertify.classifiers.execution import BaseClassifier
    from tcertify.sampling.sampler import Sampler

#: Images of a data set are told apart by 32 bits of the noise's counter.
_MOST_INDICES = 2**32


class RunOptions(TypedDict, total=False):
    """Options of `certify_dataset` and `predict_dataset`; each has a default."""

    seed: int
    indices: Iterable[int]
    num_classes: int
    batch_size: int
    dtype: str
    channels_last: bool
    compile: bool
    tf32: bool
    resume: bool
    overwrite: bool
    allow: Iterable[str]
    on_progress: Callable[[int, int], None]


def certify_dataset(
    model: BaseClassifier,
    dataset: Any,
    *,
    sigma: float,
    out: str | os.PathLike[str],
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    method: str = "joint",
    radii: Sequence[float] | None = None,
    **options: Unpack[RunOptions],
) -> RunTable:
    """Certify a data set into a run file: each certificate is wrong with probability at most
    `alpha`, and can be recomputed from the votes that the file keeps.

    Whatever ends the run, the images that were finished are in the file; `resume` continues it,
    and the rows are then those of a run that was never interrupted.

    Parameters
    ----------
    model : torch module or callable
        The base classifier, from a batch (B, ...) to logits (B, C), on the device to use.
    dataset : sequence of (image, label)
        ``len(dataset)`` and ``dataset[i]``; images are float tensors in [0, 1] of one shape.
        ``num_classes`` and ``fingerprint()`` are used where it has them.
    sigma : float
        Standard deviation of the noise, in the units of the images.
    out : path
        The run file.
    n0, n : int
        Selection and estimation samples an image.
    alpha : float
        Failure probability of each certificate, in (0, 1).
    method : {"joint", "t-certify", "certify"}
        As in `certify_counts`.
    radii : sequence of float, optional
        Stop sampling an image once it is decided which of these radii it certifies, or at the
        first look where the selected class is not its label: certified accuracy at these radii is
        then that of the full run, for a fraction of the samples. The radius of each certificate
        is as valid, but may be smaller than the full run's.
    seed : int, default 0
        Up to 2^63 - 1. With the index of an image it determines all noise.
    indices : iterable of int, default all
        The images to certify.
    num_classes : int, default ``dataset.num_classes``
    batch_size : int, optional
        Noisy copies of a forward pass, halved when memory runs out; found by itself without it.
    dtype, channels_last, compile, tf32
        How the classifier is executed, as in `Execution`: float32, contiguous, not compiled and
        without TF32 by default. The certificates speak of the classifier as executed.
    resume, overwrite : bool, default False
        Continue, or replace, a run file that exists; else it is an error.
    allow : iterable of {"random", "rows", "state", "range"}, default none
        Defects that make certificates void, accepted knowingly and recorded; see `soundness`.
    on_progress : callable, optional
        Called with the number of images that are done and of images planned.

    Returns
    -------
    RunTable

    Raises
    ------
    ValueError, TypeError
        Arguments out of range, an `n` that can never certify anything, images that are not what
        they should be.
    RunFileError
        The run file cannot be written, is held by another process, or was made otherwise.
    VoidCertificateError
        The classifier is not a fixed function of one input (see `soundness`).
    StoppedError
        Three images in a row failed with an exception.
    """
    settings = Settings.make(
        num_classes=_classes(dataset, options),
        sigma=sigma,
        n0=n0,
        n=n,
        alpha=alpha,
        method=method,
        radii=radii,
        seed=options.get("seed", 0),
    )
    check_useful(settings.n, settings.levels[-1], method=settings.method)
    return _run(model, dataset, settings, out, options)


def predict_dataset(
    model: BaseClassifier,
    dataset: Any,
    *,
    sigma: float,
    out: str | os.PathLike[str],
    n: int = 1000,
    alpha: float = 0.001,
    **options: Unpack[RunOptions],
) -> RunTable:
    """Predict a data set into a run file: a class other than the smoothed classifier's most
    probable one is returned with probability at most `alpha`, per image.

    It abstains where the vote is too close (see `predict_counts`). The arguments are those of
    `certify_dataset`.
    """
    settings = Settings.make(
        num_classes=_classes(dataset, options),
        sigma=sigma,
        n=n,
        alpha=alpha,
        seed=options.get("seed", 0),
    )
    return _run(model, dataset, settings, out, options)


def _run(
    model: BaseClassifier,
    dataset: Any,
    settings: Settings,
    out: str | os.PathLike[str],
    options: RunOptions,
) -> RunTable:
    from tcertify.runs.images import load_images
    from tcertify.runs.rounds import Rounds

    plan, allow = _plan(dataset, options), sorted(set(options.get("allow", ())))
    sampler = make_sampler(model, settings, options)
    device = sampler.classifier.device
    state = sampler.classifier.parts().state
    warnings = _check_classifier(sampler, dataset, plan, device, allow)
    parameters = {
        **asdict(settings),
        **asdict(sampler.classifier.execution),
        "allow": allow,
        "model": sampler.classifier.fingerprint(),
        "data": data_fingerprint(dataset, plan),
        "device": device_name(device),
        **versions(),
    }
    resume, overwrite = options.get("resume", False), options.get("overwrite", False)
    with RunWriter(
        out, parameters, describe_environment(sampler), plan, resume=resume, overwrite=overwrite
    ) as writer:
        for text in warnings:
            writer.warn(text)
        pending = [idx for idx in plan if idx not in writer.done]
        images = load_images(dataset, pending, device, settings.num_classes, allow)
        rounds = Rounds(sampler, settings, writer, len(plan), options.get("on_progress"))
        with closing(images):
            rounds.certify(images)
        _check_afterwards(sampler, state, writer, allow)
    return read_run(out)


def make_sampler(model: BaseClassifier, settings: Settings, options: RunOptions) -> Sampler:
    """Return the sampler of a run with these settings and options."""
    from tcertify.classifiers import Classifier, Execution
    from tcertify.sampling import GaussianNoise, Sampler

    execution = Execution(
        dtype=options.get("dtype"),
        channels_last=options.get("channels_last", False),
        compile=options.get("compile", False),
        tf32=options.get("tf32"),
    )
    return Sampler(
        Classifier.of(model, settings.num_classes, execution=execution),
        GaussianNoise(settings.sigma, settings.seed),
        batch_size=options.get("batch_size"),
    )


def _classes(dataset: Any, options: RunOptions) -> int:
    classes = options.get("num_classes", getattr(dataset, "num_classes", None))
    if classes is None:
        raise ValueError("`num_classes` must be given: the data set does not say it.")
    return check_whole("num_classes", classes, minimum=2)


def _plan(dataset: Any, options: RunOptions) -> list[int]:
    """Return the indices of the images to certify, each once and in the data set."""
    most = min(len(dataset), _MOST_INDICES) - 1
    indices = options.get("indices", range(len(dataset)))
    plan = [check_whole("indices", idx, minimum=0, maximum=most) for idx in indices]
    if not plan or len(set(plan)) < len(plan):
        raise ValueError("`indices` must name at least one image, and each once.")
    return plan


def _check_classifier(
    sampler: Sampler, dataset: Any, plan: list[int], device: torch.device, allow: list[str]
) -> list[str]:
    """Return warnings; raise where certificates would be void, found on the first whole image."""
    from tcertify.runs.images import load_images
    from tcertify.sampling.defects import check_codes, find_defects, remarks, settle

    check_codes(allow)
    with closing(
        load_images(dataset, plan, device, sampler.classifier.num_classes, allow)
    ) as images:
        for image in images:
            if image.error is None:
                found = find_defects(sampler, image.pixels[None])
                return settle([*remarks(sampler.classifier), *found], allow)
    return []


def _check_afterwards(sampler: Sampler, state: str, writer: RunWriter, allow: list[str]) -> None:
    """Note what the run found out: memory that ran out, a classifier that changed."""
    from tcertify.sampling.defects import CHANGED_STATE, settle

    if sampler.halved:
        writer.warn(f"Memory ran out: the batch size was halved to {sampler.batch_size}.")
    if sampler.classifier.parts().state != state:
        writer.warn(CHANGED_STATE.reason)
        settle([CHANGED_STATE], allow)
