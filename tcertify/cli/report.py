"""The commands that show results: plot, table, report, compare."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tcertify.cli.command import Command
from tcertify.cli.options import (
    DATASETS,
    METHODS,
    PATH,
    DataOptions,
    NameOrFile,
    Radii,
    data_options,
    gathered,
    together,
)
from tcertify.cli.output import emit, json_option, tell

if TYPE_CHECKING:
    from tcertify.report import Comparison, Result

#: Of the images that changed, this many are named.
_NAMED = 10

_inputs = together(
    click.argument("results", metavar="RUN-OR-LOG...", nargs=-1, required=True, type=PATH),
    click.option(
        "--method",
        "methods",
        type=click.Choice(METHODS),
        multiple=True,
        help="Show each RUN under this method, from the same votes; may be repeated.",
    ),
)


@click.command(
    cls=Command,
    examples=[
        "tcertify plot out.tsv.run published.tsv -o curves.pdf",
        "tcertify plot out.tsv.run --method certify --method joint --gain -o gain.png",
    ],
)
@_inputs
@click.option(
    "-o", "--out", "path", type=PATH, required=True, help="Picture to write: .png, .pdf or .svg."
)
@click.option("--gain", is_flag=True, help="Draw what each gains over the first, image by image.")
@click.option(
    "--column",
    type=click.Choice(("one", "two")),
    default="two",
    show_default=True,
    help="Width in columns of a page with two.",
)
@click.option("--title", default="", help="Title of the picture.  [default: none]")
@click.option("--overwrite", is_flag=True, help="Replace the picture.")
def plot(
    results: tuple[Path, ...],
    methods: tuple[str, ...],
    path: Path,
    gain: bool,
    column: str,
    title: str,
    overwrite: bool,
) -> None:
    """Draw certified accuracy over radius.

    There is one curve for each run file or log, with its band at 95 %.
    """
    from tcertify.report import plot_certified_accuracy, read_results

    if path.is_file() and not overwrite:
        raise click.ClickException(f"{path} exists; give --overwrite to replace it.")
    plot_certified_accuracy(
        read_results(results, methods), path, title=title, gain=gain, column=column
    )
    tell(f"wrote {path}")


@click.command(
    cls=Command,
    examples=["tcertify table out.tsv.run published.tsv --radii 0,0.25,0.5 --format latex"],
)
@_inputs
@click.option("--radii", type=Radii(), help="Radii of the table.  [default: even steps]")
@click.option(
    "--format",
    "layout",
    type=click.Choice(("text", "markdown", "latex", "csv")),
    default="text",
    show_default=True,
    help="How the table is written.",
)
@json_option
def table(
    results: tuple[Path, ...],
    methods: tuple[str, ...],
    radii: list[float] | None,
    layout: str,
    as_json: bool,
) -> None:
    """Print certified accuracy, ACR, abstention, samples.

    Intervals hold the value for the whole population of images with probability 95 %; in Markdown
    and LaTeX the best of each column is bold.
    """
    from tcertify.report import certified_table, read_results

    shown = certified_table(read_results(results, methods), radii)
    emit({"results": shown.records()}, shown.to(layout), as_json=as_json)
    for note in shown.notes():
        tell(note)


@click.command(
    cls=Command,
    examples=["tcertify report out.tsv.run --dataset digits -o report.html"],
)
@click.argument("run", type=PATH)
@click.option("-o", "--out", "path", type=PATH, required=True, help="Page to write, as HTML.")
@click.option(
    "--dataset",
    type=NameOrFile(DATASETS),
    help="The data set of the run, for the pictures.  [default: none]",
)
@data_options
@click.option("--overwrite", is_flag=True, help="Replace the page.")
@gathered(DataOptions, "images")
def report(run: Path, path: Path, images: DataOptions, overwrite: bool) -> None:
    """Write a page that shows a run.

    It needs no network: the curve, a table of the images to sort and to filter, each image under
    noise with its votes, what the certificates say, and how to check them.
    """
    from tcertify.report import write_page

    if path.is_file() and not overwrite:
        raise click.ClickException(f"{path} exists; give --overwrite to replace it.")
    write_page(run, path, images.load() if images.dataset is not None else None)
    tell(f"wrote {path}")


@click.command(cls=Command, examples=["tcertify compare out.tsv.run other.tsv --radii 0,0.5"])
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@click.option("--radii", type=Radii(), help="Radii to compare at.  [default: even steps]")
@json_option
def compare(a: Path, b: Path, radii: list[float] | None, as_json: bool) -> None:
    """Compare two runs or logs image by image.

    A and B hold the same images: which does B gain, which does it lose? The p-value is that
    of McNemar's exact test, two-sided, for each radius alone.
    """
    from tcertify.report import certified_table, compare_results, read_results

    before, after = read_results([a, b])
    chosen = certified_table([before, after], radii).radii
    known = [r for r in chosen if all(x.radii is None or r in x.radii for x in (before, after))]
    if not known:
        raise click.ClickException("There is no radius that both decided.")
    found = compare_results(before, after, known)
    if found.only_first or found.only_second:
        tell(
            f"Compared are the {len(found.image_id)} images that both hold; {found.only_first} are"
            f" only in {before.name}, {found.only_second} only in {after.name}."
        )
    emit(
        {"a": before.name, "b": after.name, **_compared(found)},
        "\n".join(_lines(before, after, found)),
        as_json=as_json,
    )


def _compared(found: Comparison) -> dict[str, Any]:
    """Return a comparison as a dictionary, ready for JSON."""
    gain = found.gain
    columns = (gain.radius, gain.share, gain.lower, gain.upper, gain.p_value)
    return {
        "images": len(found.image_id),
        "only_a": found.only_first,
        "only_b": found.only_second,
        "radii": [
            {
                "radius": radius,
                "gain": share,
                "lower": lower,
                "upper": upper,
                "p_value": p_value,
                "gained": found.gained(radius),
                "lost": found.lost(radius),
            }
            for radius, share, lower, upper, p_value in zip(
                *(column.tolist() for column in columns), strict=True
            )
        ],
    }


def _lines(before: Result, after: Result, found: Comparison) -> list[str]:
    """Return the comparison as text."""
    gain, images = found.gain, len(found.image_id)
    lines = [
        f"{before.name} -> {after.name}, {images} images",
        "radius    before   after    gain  [95 % interval]       gained  lost  McNemar p",
    ]
    for place, radius in enumerate(gain.radius.tolist()):
        shares = [float((side >= radius).mean()) for side in (found.before, found.after)]
        lines.append(
            f"{radius:<8g}  {shares[0]:.4f}  {shares[1]:.4f}  {gain.share[place]:+.4f}"
            f"  [{_down(gain.lower[place])}, {_up(gain.upper[place])}]"
            f"  {gain.gained[place]:6d}{gain.lost[place]:6d}  {gain.p_value[place]:9.2g}"
        )
    radius = float(gain.radius[0])
    for word, changed in (("gained", found.gained(radius)), ("lost", found.lost(radius))):
        if changed:
            more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
            shown = ", ".join(map(str, changed[:_NAMED]))
            lines.append(f"{word} at radius {radius:g}: images {shown}{more}")
    return lines


def _down(value: float) -> str:
    return f"{math.floor(value * 1e4) / 1e4:+.4f}"


def _up(value: float) -> str:
    return f"{math.ceil(value * 1e4) / 1e4:+.4f}"
