"""The commands on run files: certify, predict, verify, recertify, merge, export."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from tcertify.cli.command import INTERRUPTED, Command
from tcertify.cli.options import (
    DATASETS,
    METHODS,
    NOISES,
    PATH,
    Budget,
    ClusterOptions,
    DataOptions,
    ModelOptions,
    NameOrFile,
    Radii,
    Seed,
    Selection,
    Shard,
    alpha_option,
    cluster_options,
    data_options,
    gathered,
    model_options,
    selection_options,
    together,
)
from tcertify.cli.output import emit, json_option, progress, quiet_option, tell

if TYPE_CHECKING:
    from datetime import timedelta

    from tcertify.classifiers import Classifier, Execution
    from tcertify.data import Dataset
    from tcertify.report import Table
    from tcertify.runs import RunTable
    from tcertify.runs.settings import Settings
    from tcertify.sampling import Tuning

#: Curves that a picture over alpha holds at most, one for each radius.
_MOST_CURVES = 6

#: Exit status of a run in which images failed or votes were lost.
FAILED = 3

#: What a joint bound of 10^7 votes may take on one core, with two classes (docs/joint.md), and the
#: power of n that it grows with; what is worth a word before it begins.
_JOINT_SECONDS, _JOINT_POWER, _LONG = 0.25, 0.83, 60


@dataclass(frozen=True)
class RunOptions:
    """What certify and predict share, but for the images."""

    sigma: float
    outfile: Path
    alpha: float
    noise: str
    levels: int | None
    charge_noise: bool
    seed: int | str
    shard: tuple[int, int] | None
    expect_accuracy: float | None
    batch_size: int | None
    execution: str | None
    dtype: str | None
    channels_last: bool
    fold: bool
    compile: bool
    tf32: bool | None
    allow: tuple[str, ...]
    resume: bool
    overwrite: bool
    quiet: bool
    as_json: bool

    @property
    def run(self) -> Path:
        """The run file that belongs to OUTFILE."""
        return Path(f"{self.outfile}.run")

    def stated(self) -> Execution | Literal["fastest"]:
        """Return how the classifier is to be executed."""
        from tcertify.classifiers import Execution

        execution = Execution(
            self.dtype,
            channels_last=self.channels_last,
            compile=self.compile,
            tf32=self.tf32,
            fold=self.fold,
        )
        if self.execution is None:
            return execution
        if execution != Execution():
            raise click.UsageError(
                "--execution fastest chooses --dtype, --channels-last, --fold and --compile itself,"
                " and leaves --tf32 as torch is set: give none of them."
            )
        return "fastest"


_run_options = together(
    click.argument("dataset", type=NameOrFile(DATASETS)),
    click.argument("model", type=NameOrFile()),
    click.argument("sigma", type=float),
    click.argument("outfile", type=PATH),
    alpha_option,
    click.option(
        "--noise",
        type=click.Choice(NOISES),
        default="auto",
        show_default=True,
        help="Kind of noise; auto takes integer noise where pixels are whole grey levels.",
    ),
    click.option(
        "--levels",
        type=int,
        help="Grey levels above 0 of integer noise.  [default: the data set's, else 255]",
    ),
    click.option(
        "--charge-noise",
        is_flag=True,
        help="Make up for Gaussian noise that is not drawn exactly, by a smaller level.",
    ),
    click.option(
        "--seed",
        type=Seed(),
        default="random",
        show_default=True,
        help="Seed of the noise: random (with --resume, that of the run), derived from model, data"
        " and settings, or a number. Shards need the same.",
    ),
    data_options,
    selection_options,
    click.option(
        "--shard",
        type=Shard(),
        metavar="I/N",
        help="Take part I of N of these images: every N-th from the I-th on. `tcertify merge` joins"
        " the parts.",
    ),
    model_options,
    click.option(
        "--expect-accuracy",
        type=click.FloatRange(0, 1),
        help="Stop unless this share of the first 100 images is right without noise.",
    ),
    click.option(
        "--batch",
        "batch_size",
        type=int,
        help="Noisy copies per forward pass.  [default: automatic]",
    ),
    click.option(
        "--execution",
        type=click.Choice(("fastest",)),
        help="Measure precision, layout, folding, compilation and batch first, as `tune` shows, and"
        " take the fastest.  [default: the options below]",
    ),
    click.option(
        "--dtype",
        type=click.Choice(("float32", "bfloat16", "float16")),
        help="Precision of the classifier.  [default: its own]",
    ),
    click.option("--channels-last", is_flag=True, help="Store images with the channels last."),
    click.option("--fold", is_flag=True, help="Fold BatchNorm into the convolutions before it."),
    click.option("--compile", is_flag=True, help="Run the classifier through torch.compile."),
    click.option(
        "--tf32/--no-tf32",
        default=None,
        help="Whether a GPU may multiply float32 numbers in TF32.  [default: as torch is set]",
    ),
    click.option(
        "--allow",
        multiple=True,
        metavar="DEFECT",
        help="Accept a defect that makes certificates void: random, rows, state or range.",
    ),
    cluster_options,
    click.option("--resume", is_flag=True, help="Continue the run that OUTFILE belongs to."),
    click.option("--overwrite", is_flag=True, help="Replace OUTFILE and its run file."),
    quiet_option,
    json_option,
    gathered(RunOptions, "options"),
    gathered(DataOptions, "images"),
    gathered(Selection, "selection"),
    gathered(ModelOptions, "model"),
    gathered(ClusterOptions, "where"),
)


@click.command(
    cls=Command, examples=["tcertify certify digits demo/digits.safetensors 0.5 out.tsv --N 10000"]
)
@_run_options
@click.option(
    "--N0", "n0", type=int, default=100, show_default=True, help="Samples that select the class."
)
@click.option(
    "--N", "n", type=int, default=100_000, show_default=True, help="Samples that certify it."
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="joint",
    show_default=True,
    help="How votes become a radius.",
)
@click.option(
    "--target-radius", type=float, help="Stop sampling an image once this radius is decided."
)
@click.option(
    "--radii", type=Radii(), help="Stop sampling an image once all these radii are decided."
)
@click.option(
    "--radius-loss",
    type=float,
    help="Sample each image just often enough to keep all but this share of its radius: .05.",
)
@click.option(
    "--budget",
    type=Budget(),
    metavar="SAMPLES|TIME",
    help="Spread so many samples over all images, such as 5e6, or what so much time allows, such as"
    " 90s, 45m or 2h.",
)
@click.option(
    "--reserve",
    type=float,
    metavar="SHARE",
    help="Keep this share of alpha, such as 0.5, so that the finished run can be topped up.",
)
@click.option(
    "--top-up",
    type=PATH,
    metavar="RUN",
    help="Begin with the votes of RUN, which has a reserve, and go on to --N, its own times 2, 4, 8"
    " ...",
)
def certify(
    images: DataOptions,
    selection: Selection,
    model: ModelOptions,
    options: RunOptions,
    where: ClusterOptions,
    n0: int,
    n: int,
    method: str,
    target_radius: float | None,
    radii: list[float] | None,
    radius_loss: float | None,
    budget: int | timedelta | None,
    reserve: float | None,
    top_up: Path | None,
) -> None:
    """Certify the images of a data set.

    MODEL is smoothed with Gaussian noise of standard deviation SIGMA, in pixel units: pixels lie in
    [0, 1]. Where they are whole grey levels, so is the noise. OUTFILE becomes the log that the
    field's scripts read; OUTFILE.run, beside it, keeps every vote, so that the run can be resumed,
    verified and recertified.

    DATASET is digits, cifar10 or imagenet, an .npz file, a folder CLASS/file, torchvision:NAME or
    package.module:function. MODEL is package.module:function, timm:NAME, an .onnx file, or a
    checkpoint: .safetensors, or the field's {arch, state_dict}, which needs --normalize.
    """
    from tcertify.logs import format_down
    from tcertify.runs import certify_dataset
    from tcertify.statistics import check_useful, largest_radius

    if target_radius is not None:
        if radii is not None:
            raise click.UsageError("--target-radius and --radii exclude each other.")
        radii = [target_radius]
    if radii is not None and radius_loss is not None:
        raise click.UsageError("--radius-loss excludes --radii and --target-radius.")
    if budget is not None and (radii is not None or radius_loss is not None):
        raise click.UsageError("--budget excludes --radius-loss, --radii and --target-radius.")
    if budget is not None and options.shard is not None:
        raise click.UsageError(
            "--budget is worked out from all images at once, so that it excludes --shard."
        )
    check_useful(n, options.alpha)
    largest = largest_radius(n, options.alpha, options.sigma)
    _run(
        functools.partial(
            certify_dataset,
            n0=n0,
            n=n,
            method=method,
            radii=radii,
            radius_loss=radius_loss,
            budget=budget,
            reserve=reserve,
            top_up=top_up,
        ),
        images,
        selection,
        model,
        options,
        where,
        f"No radius above {format_down(largest, 4)} can be certified with --N {n}.",
    )


@click.command(
    cls=Command, examples=["tcertify predict digits demo/digits.safetensors 0.5 predicted.tsv"]
)
@_run_options
@click.option("--N", "n", type=int, default=1000, show_default=True, help="Samples per image.")
def predict(
    images: DataOptions,
    selection: Selection,
    model: ModelOptions,
    options: RunOptions,
    where: ClusterOptions,
    n: int,
) -> None:
    """Predict the images of a data set, or abstain.

    It abstains where the vote is too close to call. Arguments and files are those of `certify`;
    every radius is 0.
    """
    from tcertify.runs import predict_dataset

    _run(functools.partial(predict_dataset, n=n), images, selection, model, options, where)


@click.command(
    cls=Command,
    examples=[
        "tcertify verify out.tsv.run",
        "tcertify verify out.tsv.run --replay 5 --dataset digits --model demo/digits.safetensors",
        "tcertify verify out.tsv.run --fresh 5 --dataset digits --model demo/digits.safetensors",
    ],
)
@click.argument("run", type=PATH)
@click.option(
    "--replay",
    type=int,
    default=0,
    show_default=True,
    help="Cast the votes of this many images again, chosen at random.",
)
@click.option(
    "--fresh",
    type=int,
    default=0,
    show_default=True,
    help="Sample this many images again under a new seed that nobody could know, and compare.",
)
@click.option(
    "--dataset",
    type=NameOrFile(DATASETS),
    help="The data set of the run, for --replay and --fresh.",
)
@click.option("--model", type=NameOrFile(), help="The model of the run, for --replay and --fresh.")
@data_options
@model_options
@json_option
@gathered(DataOptions, "images")
@gathered(ModelOptions, "model")
@click.pass_context
def verify(
    context: click.Context,
    run: Path,
    replay: int,
    fresh: int,
    images: DataOptions,
    model: ModelOptions,
    as_json: bool,
) -> None:
    """Recompute every certificate of a run from its votes.

    What the votes do not support is reported. Ends with status 1 when there is a finding.
    """
    from tcertify.runs import verify_run

    if (replay or fresh) and (images.dataset is None or model.model is None):
        name = "--replay" if replay else "--fresh"
        raise click.UsageError(f"{name} needs --dataset and --model.")
    inputs: dict[str, Any] = {}
    _say_how_long(run)
    if replay or fresh:
        device = model.found_device()
        inputs = {"dataset": images.load(), "model": model.load(device), "device": device}
    report = verify_run(run, replay=replay, fresh=fresh, **inputs)
    summary = (
        f"{run}: {report.verified} images verified, {len(report.findings)} findings,"
        f" {report.failed} images failed, {report.missing} still to do"
    )
    if report.shard_of is not None:
        summary += f"; it is a shard of a run of {report.shard_of} images"
    replayed = f"replayed images {[*report.replayed]}: at most {report.moved} votes moved"
    sampled = f"sampled images {[*report.fresh]} again under seed {report.fresh_seed}"
    drawn = _drawn(report.n_tau, report.charge_noise)
    told = [summary, *drawn, *([replayed] if replay else []), *([sampled] if fresh else [])]
    emit(
        {
            "run": str(run),
            "verified": report.verified,
            "findings": [*report.findings],
            "failed": report.failed,
            "missing": report.missing,
            "shard_of": report.shard_of,
            "replayed": [*report.replayed],
            "moved": report.moved,
            "fresh": [*report.fresh],
            "fresh_seed": report.fresh_seed,
            "n_tau": report.n_tau,
            "charge_noise": report.charge_noise,
        },
        "\n".join([*report.findings, *told]),
        as_json=as_json,
    )
    context.exit(1 if report.findings else 0)


@click.command(
    cls=Command,
    examples=[
        "tcertify recertify out.tsv.run --method certify --alpha 0.01",
        "tcertify recertify out.tsv.run --reported 0.5",
        "tcertify recertify out.tsv.run --all-at-once 0.5 --out robust.tsv",
        'tcertify recertify out.tsv.run --groups "1 or 8=1,8" --groups "3 or 9=3,9"',
        "tcertify recertify out.tsv.run --top-k 3 --out top-3.tsv",
    ],
)
@click.argument("run", type=PATH)
@click.option("--method", type=click.Choice(METHODS), help="How votes become a radius.")
@click.option("--alpha", type=float, help="Probability that a certificate may be wrong.")
@click.option(
    "--reported",
    type=float,
    metavar="RADIUS",
    help="Certify only the images that reach RADIUS, so that a share alpha of these is wrong.",
)
@click.option(
    "--all-at-once",
    type=float,
    metavar="RADIUS",
    help="Certify the images that are robust at RADIUS, so that any error among them has"
    " probability alpha.",
)
@click.option(
    "--groups",
    multiple=True,
    metavar="NAME=CLASSES",
    help="Take these classes, such as cat or dog=3,5, for one; may be repeated.",
)
@click.option("--top-k", type=int, help="Certify that the label is among the K first classes.")
@click.option("--out", type=PATH, help="Also write the log of the new certificates.")
@click.option(
    "--alpha-curve", "curve", type=PATH, help="Also draw ACR and accuracy over alpha, as a picture."
)
@click.option("--overwrite", is_flag=True, help="Replace the log and the picture.")
@json_option
def recertify(
    run: Path,
    method: str | None,
    alpha: float | None,
    reported: float | None,
    all_at_once: float | None,
    groups: tuple[str, ...],
    top_k: int | None,
    out: Path | None,
    curve: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Print the table of a run for another question.

    No new sample is drawn. Choose all options before you look at the votes: the best of several is
    not a certificate at alpha.
    """
    from tcertify.runs import export_run, recertify_run
    from tcertify.statistics import parse_groups

    if curve is not None and (reported, all_at_once, top_k) != (None, None, None):
        raise click.UsageError(
            "--alpha-curve cannot be drawn for --reported, --all-at-once or --top-k."
        )
    for path in (out, curve):
        _refuse_existing(path, overwrite)
    grouped = parse_groups(groups) if groups else None
    table = recertify_run(
        run,
        method=method,
        alpha=alpha,
        reported=reported,
        all_at_once=all_at_once,
        groups=grouped,
        top_k=top_k,
    )
    if curve is not None:
        _draw_alpha_curve(run, curve, table, grouped)
        tell(f"wrote {curve}")
    if out is not None:
        export_run(table, out, "tsv")
        tell(f"wrote {out}")
    _emit_table(table, as_json=as_json)


def _draw_alpha_curve(
    run: Path, path: Path, table: RunTable, groups: dict[str, list[int]] | None
) -> None:
    """Draw a few of the radii that the table shows."""
    from tcertify.report import Result, certified_table, plot_alpha_curve
    from tcertify.runs import read_votes
    from tcertify.statistics import alpha_curve

    for name, value in (
        ("--charge-noise", table.settings.charge_noise),
        ("--reserve", table.settings.reserve),
    ):
        if value:
            raise click.UsageError(f"--alpha-curve cannot be drawn for a run with {name}.")
    votes, label = read_votes(run, groups)
    settings, radii = table.settings, certified_table([Result.of_run(table)]).radii
    few = radii[:: -(-len(radii) // _MOST_CURVES)]
    plot_alpha_curve(
        alpha_curve(votes, label, sigma=settings.sigma, radii=few, method=settings.method), path
    )


@click.command(cls=Command, examples=["tcertify merge part-*.tsv.run --out whole.tsv.run"])
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=PATH)
@click.option("--out", type=PATH, required=True, help="The run file to make.")
@json_option
def merge(runs: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Join the shards of a run into one run file.

    Its rows are those of a run that a single process made. All images must be there: those that are
    missing are named with the command that makes them, and nothing is written. An image that stands
    in several files must have equal rows.
    """
    from tcertify.runs import merge_runs

    table = merge_runs(runs, out)
    for text in table.warnings:
        tell(f"warning: {text}")
    _emit_table(table, as_json=as_json, run=str(out))
    tell(f"merged {len(runs)} files; wrote {out}")
    _exit_failed(table)


@click.command(cls=Command, examples=["tcertify export out.tsv.run --format csv --out out.csv"])
@click.argument("run", type=PATH)
@click.option(
    "--format",
    type=click.Choice(("tsv", "csv", "parquet")),
    default="tsv",
    show_default=True,
    help="The field's log (tsv), or every column of the run (csv, parquet).",
)
@click.option("--out", type=PATH, required=True, help="The file to write.")
@click.option("--overwrite", is_flag=True, help="Replace the file.")
def export(run: Path, format: str, out: Path, overwrite: bool) -> None:
    """Write a run as a log, as CSV or as Parquet."""
    from tcertify.runs import export_run, read_run

    _refuse_existing(out, overwrite)
    table = read_run(run)
    export_run(table, out, format)
    tell(f"wrote {out}" + (f", {table.part}" if table.part else ""))


def _run(
    task: Callable[..., RunTable],
    images: DataOptions,
    selection: Selection,
    model: ModelOptions,
    options: RunOptions,
    where: ClusterOptions,
    announcement: str | None = None,
) -> None:
    """Make a run, and write its log however the run ends."""
    from tcertify.classifiers import Classifier, Execution
    from tcertify.runs.shards import part_of

    _refuse_existing(options.outfile, options.overwrite or options.resume)
    execution = options.stated()
    cluster = where.cluster(images, model, functools.partial(tell, quiet=options.quiet))
    device, dataset = model.found_device(cluster is not None), images.load()
    indices = selection.indices(len(dataset))
    planned = len(part_of(indices, options.shard))
    classes = images.num_classes or dataset.num_classes
    network = model.load(device)
    stated = execution if isinstance(execution, Execution) else None
    classifier = Classifier.of(network, classes, device=device, execution=stated)

    def on_tuned(tuning: Tuning) -> None:
        tell("\n".join([*tuning.lines(), f"taken: {tuning.fastest.name}"]), quiet=options.quiet)

    def on_start(settings: Settings) -> None:
        tell(
            f"{_noise_of(settings, options)}, on {'Ray' if cluster else device}",
            quiet=options.quiet,
        )
        if model.normalize is not None or options.expect_accuracy is not None:
            _check_clean(classifier, dataset, indices, model, options)
        if announcement:
            tell(announcement, quiet=options.quiet)

    started = time.perf_counter()
    try:
        with progress(planned, quiet=options.quiet, lines=cluster is None) as on_progress:
            table = task(
                network if stated is None else classifier,
                dataset,
                sigma=options.sigma,
                alpha=options.alpha,
                noise=options.noise,
                levels=options.levels,
                charge_noise=options.charge_noise,
                seed=options.seed,
                out=options.run,
                indices=indices,
                shard=options.shard,
                num_classes=classes,
                batch_size=options.batch_size,
                device=device,
                execution=execution,
                resume=options.resume,
                overwrite=options.overwrite,
                allow=options.allow,
                cluster=cluster,
                on_start=on_start,
                on_tuned=on_tuned,
                on_progress=on_progress,
            )
    except KeyboardInterrupt:
        _say_interrupted(options, planned)
        raise click.exceptions.Exit(INTERRUPTED) from None
    _finish(table, options, time.perf_counter() - started)


def _check_clean(
    classifier: Classifier,
    dataset: Dataset,
    indices: range,
    model: ModelOptions,
    options: RunOptions,
) -> None:
    """Say how many images are right without noise; stop where they are fewer than expected."""
    from tcertify.runs import count_correct

    right, seen = count_correct(classifier, dataset, indices, allow=options.allow)
    said = f"{right} of the first {seen} images are right without noise"
    expected = options.expect_accuracy
    if expected is not None and right < expected * seen:
        given = f"--normalize {model.normalize} was" if model.normalize else "no --normalize was"
        raise click.ClickException(
            f"{said}, fewer than --expect-accuracy {expected:g}. The likely cause is the"
            f" standardisation of the images: {given} given."
        )
    tell(said, quiet=options.quiet)


def _noise_of(settings: Settings, options: RunOptions) -> str:
    """Return the first line of a run: what noise it draws, and how to draw it again."""
    again = "" if isinstance(options.seed, int) else f" ({options.seed})"
    return f"{_noise_named(settings)}, sigma = {settings.sigma:g}, seed = {settings.seed}{again}"


def _noise_named(settings: Settings) -> str:
    if settings.levels is None:
        return f"{settings.noise} noise"
    return f"{settings.noise} noise on {settings.levels} grey levels"


def _say_how_long(path: Path) -> None:
    """Say so if the bounds of a run may take minutes to compute again."""
    from tcertify.runs import read_run

    table = read_run(path)
    if table.method == "joint":
        bounds = _JOINT_SECONDS * ((table.n / 1e7) ** _JOINT_POWER).sum()
        if bounds > _LONG:
            tell(
                f"{len(table)} joint bounds of {table.settings.n} votes may take up to"
                f" {bounds / 60:.0f} minutes of one core, where two classes share the votes"
            )


def _drawn(n_tau: float | None, charged: bool) -> list[str]:
    """Return a line that says what Gaussian noise, which is not drawn exactly, does to alpha."""
    if n_tau is None:
        return []
    noise = f"Gaussian noise as drawn has n tau = {n_tau:.2g}"
    if charged:
        return [f"{noise}, which alpha was charged for"]
    return [f"{noise}: a certificate may be wrong with probability alpha exp(n tau)"]


def _say_interrupted(options: RunOptions, planned: int) -> None:
    """Write the log of what was finished, and say how to go on."""
    from tcertify.runs import export_run, read_run

    if not options.run.exists():
        tell("interrupted: no image was finished")
        return
    table = read_run(options.run)
    export_run(table, options.outfile, "tsv")
    tell(
        f"interrupted: {len(table)} of {planned} images are in {options.run} and in"
        f" {options.outfile}; the same command with --resume continues"
    )


def _finish(table: RunTable, options: RunOptions, seconds: float) -> None:
    """Write the log of a run that is done, print its table; images that failed set the status."""
    from tcertify.runs import export_run

    for text in table.warnings:
        tell(f"warning: {text}")
    if not len(table):
        _exit_failed(table)
    export_run(table, options.outfile, "tsv")
    _emit_table(table, as_json=options.as_json, log=str(options.outfile), run=str(options.run))
    tell(
        f"{len(table)} images, {int(table.n.sum())} estimation samples in {seconds:.1f} s;"
        f" wrote {options.outfile} and {options.run}",
        quiet=options.quiet,
    )
    _exit_failed(table)


def _exit_failed(table: RunTable) -> None:
    """Say so and end with a status of its own where images failed or are missing, or votes lost."""
    failed, invalid = int(table.failed.sum()), int(table.invalid.sum())
    if failed or invalid:
        tell(f"{failed} images failed, {invalid} votes were invalid")
    if table.missing:
        tell(f"{table.missing} images are missing; the same command with --resume tries them again")
    if failed or invalid or table.missing:
        raise click.exceptions.Exit(FAILED)


def _emit_table(table: RunTable, *, as_json: bool, **files: str) -> None:
    """Print the certified accuracies of a run."""
    from tcertify.report import Result, certified_table

    result = Result.of_run(table)
    shown = certified_table([result])
    heading = (
        f"{result.method}, alpha = {result.alpha:g}, sigma = {result.sigma:g},"
        f" {_noise_named(table.settings)}: {table.part or f'{len(result)} images'}"
    )
    settings = table.settings
    noise = {
        "noise": settings.noise,
        "levels": settings.levels,
        "seed": settings.seed,
        "n_tau": table.n_tau,
        "charge_noise": settings.charge_noise,
    }
    drawn = _drawn(table.n_tau, True) if settings.charge_noise else []
    emit(
        {**files, **noise, **shown.records()[0]},
        "\n".join([heading, *drawn, *_lines(shown)]),
        as_json=as_json,
    )


def _lines(table: Table) -> list[str]:
    """Return the lines of a table of one result, whose name needs no line."""
    return [*table.to("text").splitlines()[1:], *table.notes()]


def _refuse_existing(path: Path | None, allowed: bool) -> None:
    if path is not None and path.is_file() and not allowed:
        raise click.ClickException(f"{path} exists; give --overwrite to replace it.")
