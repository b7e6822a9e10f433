"""The command line of training: parses, calls, prints."""

from __future__ import annotations

import dataclasses
import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from adre_train.recipe import Recipe


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("recipe")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder that holds the data set.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for checkpoints and metrics; runs/RECIPE unless given.",
)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the folder.")
@click.option("--dry-run", is_flag=True, help="Print what would run and what it costs.")
@click.option("--workers", default=0, show_default=True, help="Processes that read images.")
def main(
    recipe: str,
    settings: tuple[str, ...],
    data: Path | None,
    out: Path | None,
    resume: bool,
    dry_run: bool,
    workers: int,
) -> None:
    """Train a base classifier that certifies well once smoothed.

    RECIPE is one of the recipes that come along (digits, cifar10, cifar10-adv, imagenet,
    imagenet-k4, imagenet-adv) or a TOML file. For several devices start it with torchrun.
    """
    from adre_train.recipe import load

    try:
        chosen = load(recipe, settings)
        if dry_run:
            click.echo(describe(chosen))
            return
        _run(chosen, data, out or Path("runs") / Path(recipe).stem, resume, workers)
    except (ValueError, FileNotFoundError, ModuleNotFoundError, FloatingPointError) as error:
        raise click.ClickException(str(error)) from error


def describe(recipe: Recipe) -> str:
    """Return the settings of a recipe, and an estimate of its cost on this machine."""
    import torch

    from adre_train.cost import estimate

    device = "cuda" if torch.cuda.is_available() else "cpu"
    cost = estimate(recipe, device)
    settings = [f"{key} = {value}" for key, value in dataclasses.asdict(recipe).items()]
    return "\n".join(
        [
            *settings,
            "",
            f"{cost.parameters:,} parameters, {cost.steps:,} steps, {cost.flop:.2g} FLOP",
            f"about {cost.seconds / 3600:.2g} hours on this machine's {device}, from one small"
            " batch timed now, data loading and validation aside",
        ]
    )


def _run(recipe: Recipe, data: Path | None, out: Path, resume: bool, workers: int) -> None:
    import torch
    from torch import distributed

    from adre_train.train import train
    from tcertify.classifiers.networks import build
    from tcertify.data import load

    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    several = "LOCAL_RANK" in os.environ  # torchrun sets it
    if several:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        images, test = (load(recipe.dataset, split, data) for split in ("train", "test"))
        torch.manual_seed(recipe.seed)
        network = build(recipe.architecture, images.num_classes)
        path = train(
            network, images, recipe, out, test=test, resume=resume, workers=workers, device=device
        )
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # they hold what holds the process group
        raise
    finally:
        if several:
            distributed.destroy_process_group()
    if int(os.environ.get("RANK", 0)) == 0:
        click.echo(f"{path}")
