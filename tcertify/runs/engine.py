"""The certification engine: a whole data set, packed into full batches, resumable at any moment."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from tcertify._checks import check_whole
from tcertify.classifiers import Classifier, Execution
from tcertify.classifiers.execution import BaseClassifier
from tcertify.data import Dataset, as_dataset
from tcertify.errors import StoppedError
from tcertify.runs.budget import Budget, check_run_budget, with_budget
from tcertify.runs.file import MAX_PLAN, RunFile, RunWriter
from tcertify.runs.images import load_images
from tcertify.runs.machine import Cluster, Job, machine
from tcertify.runs.provenance import recorded_execution, recorded_rows
from tcertify.runs.rounds import not_begun
from tcertify.runs.row import MAX_IMAGES, Row
from tcertify.runs.seeds import check_seed, with_seed
from tcertify.runs.settings import Settings
from tcertify.runs.shards import check_shard, part_of
from tcertify.runs.table import RunTable, read_run
from tcertify.runs.topping import OldRun, check_top_up, old_run
from tcertify.sampling.defects import check_codes
from tcertify.sampling.noise import check_charge, choose_noise
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
    radius_loss: float | None = None,
    budget: int | datetime.timedelta | None = None,
    reserve: float | None = None,
    top_up: str | os.PathLike[str] | None = None,
    noise: str = "auto",
    levels: int | None = None,
    charge_noise: bool = False,
    seed: int | str = 0,
    indices: Iterable[int] | None = None,
    shard: tuple[int, int] | None = None,
    num_classes: int | None = None,
    batch_size: int | None = None,
    device: Device = None,
    execution: Execution | Literal["fastest"] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    allow: Iterable[str] = (),
    cluster: Cluster | None = None,
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
        within a hair of one of them: 0.3 to 2.3 of 500 images, as measured.
    radius_loss : float, optional
        Sample each image as often as its selection sample says is enough to keep all but this
        share of the radius that `n` samples would give, and about 1,000 times where the selected
        class is not its label. All numbers of the run may be read as usual: each image is certified
        once, at the whole of alpha. See `tcertify.statistics.plan_for_loss`.
    budget : int or timedelta, optional
        Estimation samples of all images together, at least about 1,000 for each: spread so that one
        more would gain about the same radius at every image, `n` at most, and about 1,000 where the
        selected class is not the label. The plan looks at selection samples alone, so that all
        numbers of the run may be read as usual. It is made from at most 1,000 images: of more, the
        samples come to about the budget. A time becomes samples at the speed with which these
        1,000 were selected, theirs taken off; a resume keeps the plan. See
        `tcertify.statistics.plan_for_budget`.
    reserve : float, optional
        The share of `alpha`, in (0, 1), that is kept so that the finished run can be topped up: its
        certificates are wrong with probability at most ``alpha * (1 - reserve)``, and `alpha`
        whoever decides to top it up, because of whatever it found.
    top_up : path, optional
        A run with a reserve, or one that was topped up. The new run in `out` begins with the votes
        that each image has there and goes on to `n`, which must be the old n times a power of two;
        images that are missing or failed there are sampled from the beginning. The certificate of
        an image is that of the look with the largest radius: looks are after the old n, twice, four
        times ... as many samples, and each spends half of what is left of `alpha`. The other
        arguments must be those of the old run, as for a resume: `noise` "auto", `seed` "random" and
        `execution` "fastest" take what it has. The old run stays as it is.
    noise : {"auto", "integer", "gaussian"}
        Integer noise certifies images of whole grey levels as executed, float rounding included
        (docs/guarantees.md). "auto" takes it where ``dataset.levels`` says the levels, or, without
        `levels` and those, where the first images are of 8 bits, and `sigma` is at least 0.3 grey
        levels; else Gaussian noise. A resume under "auto" keeps the noise of the run. It is decided
        once: an image off the grid that comes later fails.
    levels : int, optional
        Grey levels above 0 of integer noise; those of the data set without it, else 255. Under
        "auto" integer noise is taken if the first images are on their grid.
    charge_noise : bool
        Certify under Gaussian noise at so small a level that a certificate is wrong with
        probability at most `alpha` under the noise as it is drawn. Nothing is charged under integer
        noise.
    seed : int or {"random", "derived"}
        Up to 2^63 - 1. With the index of an image it determines all noise. The default is known to
        whoever made the model or the images. "random" takes one from the system's entropy, or that
        of the run that is resumed; "derived" a hash of model, data and settings, so that nobody
        chooses it.
    indices : iterable of int, optional
        The images to certify; all of them without it.
    shard : (int, int), optional
        ``(i, n)`` certifies part i of n, from 1: every n-th of these images. `merge_runs` joins the
        parts into the run that a single process would have made. The seed must be the same for
        each, so that it cannot be "random".
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
    cluster : tcertify.cluster.Ray, optional
        The workers that sample; this process without it. The rows are the same.
    on_start : callable, optional
        Called with the `Settings` of the run, noise and seed among them, before the first sample:
        the shape of an image, and what is charged for it, is not known then.
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
        The run file cannot be written, is held by another process, or was made otherwise; or the
        run to top up cannot be read, has no reserve, or was made otherwise.
    VoidCertificateError
        The classifier is not a fixed function of one input, or an image lies outside [0, 1].
    StoppedError
        Three images in a row failed: they are not what they should be, or the classifier raised.
    """
    dataset, classes = _opened(dataset, num_classes)
    if top_up is not None:
        check_top_up(
            seed, reserve=reserve, radius_loss=radius_loss, budget=budget, charge_noise=charge_noise
        )
    with nullcontext() if top_up is None else old_run(top_up, out) as old:
        settings = Settings.make(
            num_classes=classes,
            sigma=sigma,
            n0=n0,
            n=n,
            alpha=alpha,
            method=method,
            radii=radii,
            radius_loss=radius_loss,
            reserve=reserve if old is None else old.settings.reserve,
            charge_noise=charge_noise,
        )
        if old is not None:
            settings = old.continued(settings)
        check_useful(settings.n, settings.look_levels[-1], method=settings.method)
        whole = _plan(dataset, indices)
        check_run_budget(budget, settings, len(whole), shard=shard)
        return _run(
            model,
            dataset,
            settings,
            out,
            budget=budget,
            old=old,
            noise=noise,
            levels=levels,
            seed=seed,
            whole=whole,
            shard=shard,
            batch_size=batch_size,
            device=device,
            execution=execution,
            resume=resume,
            overwrite=overwrite,
            allow=allow,
            cluster=cluster,
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
    charge_noise: bool = False,
    seed: int | str = 0,
    indices: Iterable[int] | None = None,
    shard: tuple[int, int] | None = None,
    num_classes: int | None = None,
    batch_size: int | None = None,
    device: Device = None,
    execution: Execution | Literal["fastest"] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    allow: Iterable[str] = (),
    cluster: Cluster | None = None,
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
    settings = Settings.make(
        num_classes=classes, sigma=sigma, n=n, alpha=alpha, charge_noise=charge_noise
    )
    return _run(
        model,
        dataset,
        settings,
        out,
        budget=None,
        old=None,
        noise=noise,
        levels=levels,
        seed=seed,
        whole=_plan(dataset, indices),
        shard=shard,
        batch_size=batch_size,
        device=device,
        execution=execution,
        resume=resume,
        overwrite=overwrite,
        allow=allow,
        cluster=cluster,
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
    budget: Budget | None,
    old: OldRun | None,
    noise: str,
    levels: int | None,
    seed: int | str,
    whole: list[int],
    shard: tuple[int, int] | None,
    batch_size: int | None,
    device: Device,
    execution: Execution | Literal["fastest"] | None,
    resume: bool,
    overwrite: bool,
    allow: Iterable[str],
    cluster: Cluster | None,
    on_start: Callable[[Settings], None] | None,
    on_tuned: Callable[[Tuning], None] | None,
    on_progress: Callable[[int, int], None] | None,
) -> RunTable:
    allow = sorted(set(allow))
    check_codes(allow)
    check_seed(seed)
    resumed = resume and not overwrite
    if execution == "fastest" and (shard is not None or cluster is not None):
        raise ValueError(
            '`execution` "fastest" would find another one in each place: tune once, and name what'
            " was found."
        )
    classifier, rows = _as_executed(
        model,
        settings,
        dataset,
        whole,
        old.path if old is not None else out if resumed else None,
        batch_size=batch_size,
        device=device,
        execution=execution,
        allow=allow,
        on_tuned=on_tuned,
    )
    there = old.settings if old is not None else _resumed(out) if resumed else None
    if shard is not None:
        shard = check_shard(shard, len(whole), seed, resumed=there is not None)
    plan = part_of(whole, shard)
    # what rows depend on is decided by the whole run, so that shards agree
    settings = _with_noise(settings, noise, levels, dataset, whole, allow, there)
    settings = with_seed(settings, seed, classifier, dataset, whole, there)
    if on_start:
        on_start(settings)
    job = Job(settings, whole, allow, batch_size, rows)
    if budget is not None:
        planned = with_budget(
            settings, budget, classifier, dataset, job, out, cluster=cluster, there=there
        )
        job = replace(job, settings=planned)
    with (machine if cluster is None else cluster)(classifier, dataset, job) as hands:
        if old is not None:
            old.check(hands)
        with RunWriter(
            out,
            hands.parameters,
            hands.environment,
            plan,
            whole=whole if len(plan) < len(whole) else None,
            resume=resume,
            overwrite=overwrite,
        ) as writer:
            if resume:
                hands.check_probe(writer.path, writer.parameters)
            for text in hands.warnings:
                writer.warn(text)
            told = _Told(writer, len(plan), on_progress)
            pending = [image_id for image_id in plan if image_id not in writer.done]
            begun = not_begun if old is None else old.begun
            told.add(hands.certify(pending, told, begun))
            hands.finish(told)
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


@dataclass(frozen=True)
class _Told:
    """The run file, and whoever wants to know how many of its images are done."""

    writer: RunWriter
    planned: int
    on_progress: Callable[[int, int], None] | None

    @property
    def path(self) -> Path:
        return self.writer.path

    def add(self, rows: Iterable[Row]) -> None:
        self.writer.add(rows)
        if self.on_progress:
            self.on_progress(len(self.writer.done), self.planned)

    def warn(self, text: str) -> None:
        self.writer.warn(text)


def _opened(dataset: Any, given: int | None) -> tuple[Dataset, int]:
    """Return the data set as one of ours, and the width of the logits."""
    if given is not None:
        given = check_whole("num_classes", given, minimum=2)
    opened = as_dataset(dataset, num_classes=given)
    classes = opened.num_classes if given is None else given
    return opened, check_whole("num_classes", classes, minimum=2)


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
    check_charge(settings.charge_noise, noise)
    if there is not None and noise == "auto" and levels is None:
        return _under(settings, there.noise, there.levels)
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
    return _under(settings, chosen.kind, chosen.levels)


def _under(settings: Settings, noise: str, levels: int | None) -> Settings:
    """Return the settings with a noise, and without a charge where it owes nothing."""
    charge_noise = settings.charge_noise and levels is None
    return replace(settings, noise=noise, levels=levels, charge_noise=charge_noise)
