"""The demo: train a small network on real digits under noise, certify it, show the result."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from tcertify.cli.command import Command
from tcertify.cli.options import alpha_option
from tcertify.cli.output import progress, quiet_option, tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from tcertify.report import Result

METHODS = ("certify", "t-certify", "joint")
RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


@click.command(cls=Command, examples=["tcertify demo", "tcertify demo --N 100000 --max 364"])
@click.option(
    "--sigma",
    type=float,
    default=0.5,
    show_default=True,
    help="Standard deviation of the noise, in pixel units.",
)
@click.option(
    "--N0", "n0", type=int, default=100, show_default=True, help="Samples that select the class."
)
@click.option(
    "--N",
    "n",
    type=int,
    default=10_000,
    show_default=True,
    help="Samples that certify it; the paper takes 100000.",
)
@alpha_option
@click.option(
    "--max",
    "images",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Certify at most this many test images.",
)
@click.option("--epochs", type=int, default=20, show_default=True, help="Epochs of training.")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of training and of the noise."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder for the checkpoint, the run, the logs and the picture.",
)
@quiet_option
def demo(
    sigma: float,
    n0: int,
    n: int,
    alpha: float,
    images: int,
    epochs: int,
    seed: int,
    out: Path,
    quiet: bool,
) -> None:
    """Train, certify and plot real digits in a minute.

    The digits are scikit-learn's, 8x8 pixels; training is ADRE_REG, and the table compares three
    methods on the same votes.
    """
    say = functools.partial(tell, quiet=quiet)
    say(f"tcertify demo: digits, 8x8 pixels in [0, 1], sigma = {sigma:g}")
    from safetensors.torch import save_file

    from tcertify.data import digits
    from tcertify.report import Result, plot_certified_accuracy
    from tcertify.report.plots import check_matplotlib
    from tcertify.runs import certify_dataset, export_run, recertify_run
    from tcertify.statistics import check_useful

    check_useful(n, alpha)
    check_matplotlib()
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    network = train_digits(sigma=sigma, epochs=epochs, seed=seed)
    save_file(network.state_dict(), out / "digits.safetensors")
    say(
        f"trained with ADRE_REG, recipe digits, {epochs} epochs,"
        f" in {time.perf_counter() - started:.1f} s"
    )

    run, data = out / "digits.run", digits.load("test")
    indices = range(min(images, len(data)))
    started = time.perf_counter()
    with progress(len(indices), quiet=quiet) as on_progress:
        certified = certify_dataset(
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
    say(
        f"certified {len(indices)} test images in {time.perf_counter() - started:.1f} s:"
        f" n0 = {n0}, n = {n}, alpha = {alpha:g},"
        f" {certified.settings.noise} noise, seed = {seed}"
    )
    runs = {method: recertify_run(run, method=method) for method in METHODS}
    results = [Result.of_run(run_table, method) for method, run_table in runs.items()]
    click.echo(table(results))
    for method, run_table in runs.items():
        export_run(run_table, out / f"{method}.tsv", "tsv")
    plot_certified_accuracy(
        results,
        out / "certified_accuracy.png",
        title=f"digits, sigma = {sigma:g}, n = {n}, alpha = {alpha:g}",
    )
    logs = ", ".join(f"{method}.tsv" for method in runs)
    say(f"wrote {out}/: digits.safetensors, digits.run, certified_accuracy.png, {logs}")


def train_digits(*, sigma: float, epochs: int, seed: int) -> nn.Module:
    """Train by the recipe ``digits``, which is ADRE_REG; the same seed gives the same network."""
    import torch

    from adre_train import recipe
    from adre_train.train import train
    from tcertify.classifiers.networks import build
    from tcertify.data import digits

    settings = [f"sigma={sigma}", f"epochs={epochs}", f"seed={seed}"]
    settings += ["warmup=0"] if epochs == 1 else []
    chosen = recipe.load("digits", settings)
    with torch.random.fork_rng(devices=[]), TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        network = build(chosen.architecture, 10)
        train(network, digits.load("train"), chosen, Path(folder))
    return network.eval()


def table(results: Sequence[Result]) -> str:
    """Certified accuracy by radius, ACR and abstention of each method, and the last one's gain."""
    from tcertify.report import certified_table

    heading = "certified accuracy at l2 radius r, average certified radius (ACR)"
    return f"\n{heading}\n{certified_table(results, RADII).compact(gain=True)}\n"
