"""The commands on run files: certify, predict, verify, recertify, export."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tcertify.certificates import METHODS

if TYPE_CHECKING:
    from tcertify.runs.table import RunTable

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)

_PATH = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


class _Radii(click.ParamType[list[float]]):
    """Radii separated by commas."""

    name = "radii"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return [float(part) for part in value.split(",")]
        except ValueError:
            self.fail(f"radii must be numbers separated by commas, got {value!r}.", param, ctx)


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_run_options = _options(
    click.argument("dataset"),
    click.argument("model"),
    click.argument("sigma", type=float),
    click.argument("outfile", type=_PATH),
    click.option("--batch", type=int, help="Noisy copies a forward pass.  [default: by itself]"),
    click.option("--skip", type=int, default=1, show_default=True, help="Take each SKIP-th image."),
    click.option("--max", "most", type=int, help="Stop after this many images.  [default: all]"),
    click.option("--split", default="test", show_default=True, help="Split of the data set."),
    click.option("--data", type=_FOLDER, help="Folder that holds DATASET; digits need none."),
    click.option(
        "--alpha", type=float, default=0.001, show_default=True, help="Failure probability."
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Of the noise."),
    click.option("--device", default="cpu", show_default=True, help="Such as cpu or cuda:0."),
    click.option("--resume", is_flag=True, help="Continue the run that OUTFILE belongs to."),
    click.option("--overwrite", is_flag=True, help="Replace OUTFILE and its run."),
    click.option(
        "--dtype",
        default="float32",
        show_default=True,
        help="Precision of the classifier: float32, bfloat16 or float16.",
    ),
    click.option("--channels-last", is_flag=True, help="Memory layout of classifier and images."),
    click.option("--compile", is_flag=True, help="Run the classifier through torch.compile."),
    click.option("--tf32", is_flag=True, help="Let a GPU multiply float32 in TF32."),
    click.option(
        "--allow",
        multiple=True,
        help="Accept a defect that makes certificates void: random, rows, state or range.",
    ),
)


@click.command()
@_run_options
@click.option("--N0", "n0", type=int, default=100, show_default=True, help="Selection samples.")
@click.option("--N", "n", type=int, default=100_000, show_default=True, help="Estimation samples.")
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="joint",
    show_default=True,
    help="How votes become a radius.",
)
@click.option("--target-radius", type=float, help="Stop an image once this radius is decided.")
@click.option("--radii", type=_Radii(), help="Stop an image once its cell of radii is decided.")
def certify(
    dataset: str,
    model: str,
    sigma: float,
    outfile: Path,
    n0: int,
    n: int,
    method: str,
    target_radius: float | None,
    radii: list[float] | None,
    **others: Any,
) -> None:
    """Certify DATASET under MODEL with Gaussian noise SIGMA, in pixel units, into OUTFILE.

    OUTFILE is the field's log, tab-separated; OUTFILE.run beside it keeps the votes, so that the
    run can be resumed, verified and recertified. MODEL is package.module:function or a
    .safetensors checkpoint.
    """
    from tcertify.logs.tsv import format_down
    from tcertify.runs.engine import certify_dataset
    from tcertify.runs.settings import Settings

    if target_radius is not None:
        if radii is not None:
            raise click.UsageError("--target-radius and --radii exclude each other.")
        radii = [target_radius]
    settings = Settings.make(
        num_classes=2,
        sigma=sigma,
        n0=n0,
        n=n,
        alpha=others["alpha"],
        method=method,
        seed=others["seed"],
        radii=radii,
    )
    largest = format_down(settings.largest_radius(), 4)
    click.echo(f"largest radius that {n} samples can certify: {largest}")
    _execute(
        certify_dataset,
        dataset,
        model,
        outfile,
        others,
        sigma=sigma,
        n0=n0,
        n=n,
        method=method,
        radii=radii,
    )


@click.command()
@_run_options
@click.option("--N", "n", type=int, default=1000, show_default=True, help="Samples an image.")
def predict(dataset: str, model: str, sigma: float, outfile: Path, n: int, **others: Any) -> None:
    """Predict DATASET by MODEL smoothed with Gaussian noise SIGMA, into OUTFILE.

    The log and the run file are those of `certify`; the radius is 0, and -1 abstains.
    """
    from tcertify.runs.engine import predict_dataset

    _execute(predict_dataset, dataset, model, outfile, others, sigma=sigma, n=n)


@click.command()
@click.argument("run", type=_PATH)
@click.option(
    "--replay",
    type=int,
    default=0,
    show_default=True,
    help="Cast the votes of this many images again, chosen at random.",
)
@click.option("--dataset", help="The data set of the run, for --replay.")
@click.option("--split", default="test", show_default=True, help="Split of the data set.")
@click.option("--data", type=_FOLDER, help="Folder that holds the data set; digits need none.")
@click.option("--model", help="The model of the run, for --replay.")
@click.option("--device", default="cpu", show_default=True, help="Such as cpu or cuda:0.")
def verify(
    run: Path,
    replay: int,
    dataset: str | None,
    split: str,
    data: Path | None,
    model: str | None,
    device: str,
) -> None:
    """Recompute every certificate of RUN from its votes; report what they do not support."""
    from tcertify.runs.verify import verify_run

    inputs: dict[str, Any] = {}
    if replay:
        if dataset is None or model is None:
            raise click.UsageError("--replay needs --dataset and --model.")
        inputs = {"model": _model(model, device), "dataset": _dataset(dataset, split, data)}
    report = verify_run(run, replay=replay, **inputs)
    for finding in report.findings:
        click.echo(finding)
    click.echo(
        f"{run}: {report.verified} images verified, {len(report.findings)} findings,"
        f" {report.failed} images invalid, {report.missing} still to do"
    )
    if replay:
        click.echo(f"replayed images {[*report.replayed]}: at most {report.moved} votes moved")
    if report.findings:
        raise SystemExit(1)


@click.command()
@click.argument("run", type=_PATH)
@click.option("--method", type=click.Choice(METHODS), help="How votes become a radius.")
@click.option("--alpha", type=float, help="Failure probability.")
@click.option("--out", type=_PATH, help="Also write the log, tab-separated.")
@click.option("--overwrite", is_flag=True, help="Replace the log.")
def recertify(
    run: Path, method: str | None, alpha: float | None, out: Path | None, overwrite: bool
) -> None:
    """Print the table of RUN under another method or alpha, without a single new sample."""
    from tcertify.runs.recertify import recertify_run

    _refuse_existing(out, overwrite)
    table = recertify_run(run, method=method, alpha=alpha)
    _print_table(table)
    _write(table, out, "tsv")


@click.command()
@click.argument("run", type=_PATH)
@click.option(
    "--format",
    type=click.Choice(("tsv", "csv", "parquet")),
    default="tsv",
    show_default=True,
    help="The field's log, or every column.",
)
@click.option("--out", type=_PATH, required=True, help="The file to write.")
@click.option("--overwrite", is_flag=True, help="Replace the file.")
def export(run: Path, format: str, out: Path, overwrite: bool) -> None:
    """Write the certificates of RUN as a log, as CSV or as Parquet."""
    from tcertify.runs.table import read_run

    _refuse_existing(out, overwrite)
    _write(read_run(run), out, format)


COMMANDS = (certify, predict, verify, recertify, export)


def _execute(
    task: Callable[..., RunTable],
    dataset: str,
    model: str,
    outfile: Path,
    others: dict[str, Any],
    **arguments: Any,
) -> None:
    """Run a task with a progress bar; write the log however the run ends; exit 3 for bad images."""
    from tcertify.runs.table import read_run

    _refuse_existing(outfile, others["overwrite"] or others["resume"])
    images = _dataset(dataset, others.pop("split"), others.pop("data"))
    classifier = _model(model, others.pop("device"))
    indices = range(0, len(images), _at_least_one("--skip", others.pop("skip")))
    most, batch, run = others.pop("most"), others.pop("batch"), Path(f"{outfile}.run")
    if most is not None:
        indices = indices[: _at_least_one("--max", most)]
    if batch is not None:
        others["batch_size"] = batch
    started = time.perf_counter()
    try:
        with progress_bar(len(indices)) as on_progress:
            table = task(
                classifier,
                images,
                out=run,
                indices=indices,
                on_progress=on_progress,
                **arguments,
                **others,
            )
    except KeyboardInterrupt:
        if run.exists():
            table = read_run(run)
            _write(table, outfile, "tsv")
            click.echo(
                f"interrupted: {len(table)} of {len(indices)} images are in {run} and in"
                f" {outfile}; the same command with --resume continues",
                err=True,
            )
        raise SystemExit(130) from None
    _write(table, outfile, "tsv")
    for text in table.warnings:
        click.echo(f"warning: {text}", err=True)
    _print_table(table)
    click.echo(
        f"{len(table)} images, {int(table.n.sum())} estimation samples in"
        f" {time.perf_counter() - started:.1f} s; wrote {outfile} and {run}"
    )
    if table.failed.any() or table.invalid.any():
        click.echo(
            f"{int(table.failed.sum())} images invalid, {int(table.invalid.sum())} invalid votes",
            err=True,
        )
        raise SystemExit(3)


def _print_table(table: RunTable) -> None:
    from tcertify.logs.tsv import format_down

    correct = table.predicted == table.label
    shown = table.parameters
    click.echo(
        f"{shown['method']}, alpha = {shown['alpha']:g}, sigma = {shown['sigma']:g}:"
        f" {len(table)} images, accuracy {_share(correct)}, abstained"
        f" {_share(table.predicted < 0)}, mean samples {_mean(table.n):.0f}"
    )
    if shown["method"] == "predict":
        return
    radii = shown["radii"] or [r for r in RADII if r <= max(table.radius, default=0)]
    for radius in radii:
        certified = correct & (table.radius >= radius) & (table.radius > 0)
        click.echo(f"certified accuracy at radius {radius:g}: {_share(certified)}")
    click.echo(f"average certified radius: {format_down(_mean(table.radius * correct), 4)}")


def _share(true: Any) -> str:
    return f"{_mean(true):.4f}"


def _mean(values: Any) -> float:
    return float(values.mean()) if len(values) else 0.0


@contextmanager
def progress_bar(images: int) -> Iterator[Callable[[int, int], None]]:
    """Show rate and time left on a terminal; yield what `certify_dataset` calls back."""
    from tqdm import tqdm

    with tqdm(total=images, unit="image", disable=None, leave=False) as bar:

        def on_progress(done: int, planned: int) -> None:
            bar.update(done - bar.n)

        yield on_progress


def _dataset(name: str, split: str, folder: Path | None) -> Any:
    from tcertify import data

    return data.load(name, split, folder)


def _model(name: str, device: str) -> Any:
    from tcertify.classifiers.by_name import load

    try:
        return load(name).to(device)
    except (RuntimeError, AssertionError) as error:
        raise click.ClickException(f"--device {device}: {str(error).splitlines()[0]}") from None


def _refuse_existing(path: Path | None, allowed: bool) -> None:
    if path is not None and path.is_file() and not allowed:
        raise FileExistsError(f"{path} exists; give --overwrite to replace it.")


def _write(table: RunTable, out: Path | None, format: str) -> None:
    from tcertify.runs.export import export_run

    if out is not None:
        try:
            export_run(table, out, format)
        except OSError as error:
            raise click.ClickException(f"Cannot write {out}: {error.strerror}.") from error


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise click.BadParameter(f"must be at least 1, got {value}.", param_hint=name)
    return value
