"""The demo: train a small network on real digits under noise, certify it, show the result."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from tcertify.runs.table import RunTable

METHODS = ("certify", "t-certify", "joint")
RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


@click.command()
@click.option("--sigma", type=float, default=0.5, show_default=True, help="Noise, in pixel units.")
@click.option("--N0", "n0", type=int, default=100, show_default=True, help="Selection samples.")
@click.option(
    "--N",
    "n",
    type=int,
    default=10_000,
    show_default=True,
    help="Estimation samples an image; the paper takes 100000.",
)
@click.option("--alpha", type=float, default=0.001, show_default=True, help="Failure probability.")
@click.option("--max", "images", type=int, default=200, show_default=True, help="Test images.")
@click.option("--epochs", type=int, default=20, show_default=True, help="Training epochs.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of training and noise.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder for the checkpoint, the logs and the picture.",
)
def demo(
    sigma: float, n0: int, n: int, alpha: float, images: int, epochs: int, seed: int, out: Path
) -> None:
    """Train on scikit-learn's digits, certify test images, print the table, draw the curve."""
    click.echo(f"tcertify demo: digits, 8x8 pixels in [0, 1], Gaussian noise sigma = {sigma:g}")
    from safetensors.torch import save_file

    from tcertify.cli.runs import progress_bar
    from tcertify.data import digits
    from tcertify.report.plots import plot_certified_accuracy
    from tcertify.runs import certify_dataset, export_run, recertify_run

    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    network = train_digits(sigma=sigma, epochs=epochs, seed=seed)
    save_file(network.state_dict(), out / "digits.safetensors")
    click.echo(
        f"trained with ADRE_REG, recipe digits, {epochs} epochs,"
        f" in {time.perf_counter() - started:.1f} s"
    )

    run, data = out / "digits.run", digits.load("test")
    indices = range(min(images, len(data)))
    started = time.perf_counter()
    with progress_bar(len(indices)) as on_progress:
        certify_dataset(
            network,
            data,
            sigma=sigma,
            out=run,
            n0=n0,
            n=n,
            alpha=alpha,
            seed=seed,
            indices=indices,
            overwrite=True,
            on_progress=on_progress,
        )
    click.echo(
        f"certified {len(indices)} test images in {time.perf_counter() - started:.1f} s:"
        f" n0 = {n0}, n = {n}, alpha = {alpha:g}, seed = {seed}"
    )
    results = {method: recertify_run(run, method=method) for method in METHODS}
    click.echo(table(results))
    for method, result in results.items():
        export_run(result, out / f"{method}.tsv", "tsv")
    curves = {m: (result.radius, result.predicted == result.label) for m, result in results.items()}
    plot_certified_accuracy(
        curves,
        out / "certified_accuracy.png",
        title=f"digits, sigma = {sigma:g}, n = {n}, alpha = {alpha:g}",
    )
    logs = ", ".join(f"{method}.tsv" for method in results)
    click.echo(f"wrote {out}/: digits.safetensors, digits.run, certified_accuracy.png, {logs}")


def train_digits(*, sigma: float, epochs: int, seed: int) -> nn.Module:
    """Train by the recipe ``digits``, which is ADRE_REG; the same seed gives the same network."""
    import torch

    from adre_train import recipe
    from adre_train.train import train
    from tcertify.classifiers.networks import build
    from tcertify.data import digits

    chosen = recipe.load("digits", [f"sigma={sigma}", f"epochs={epochs}", f"seed={seed}"])
    with torch.random.fork_rng(devices=[]), TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        network = build(chosen.architecture, 10)
        train(network, digits.load("train"), chosen, Path(folder))
    return network.eval()


def table(results: Mapping[str, RunTable]) -> str:
    """Certified accuracy by radius, ACR and abstention of each method, and the last one's gain."""
    from tcertify.logs.tsv import format_down
    from tcertify.statistics.curves import average_certified_radius, certified_accuracy

    rows: dict[str, list[float]] = {}
    for method, result in results.items():
        correct = result.predicted == result.label
        rows[method] = [
            *certified_accuracy(result.radius, correct, RADII).share,
            average_certified_radius(result.radius, correct).value,
            float((result.predicted < 0).mean()),
        ]
    first, *_, last = rows.values()
    rows["gain"] = [after - before for before, after in zip(first, last, strict=True)]
    header = [f"r={radius:g}" for radius in RADII] + ["ACR", "abstain"]
    lines = [" " * 10 + "".join(f"{name:>9}" for name in header)]
    for name, values in rows.items():
        shown = [f"{v:+.3f}" if name == "gain" else f"{v:.3f}" for v in values]
        if name != "gain":
            shown[-2] = format_down(values[-2], 3)  # the ACR: a radius is never shown above itself
        lines.append(f"{name:<10}" + "".join(f"{text:>9}" for text in shown))
    return "\n".join(
        ["", "certified accuracy at l2 radius r, average certified radius (ACR)", *lines, ""]
    )
