"""The command line of training: parses, calls, prints."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from traceback import clear_frames
from typing import TYPE_CHECKING

import click

from tcertify.cli.command import Command
from tcertify.cli.options import NameOrFile

if TYPE_CHECKING:
    from adre_train.recipe import Recipe

#: Those that come along, written out so that --help need not look.
RECIPES = (
    "cifar10",
    "cifar10-adv",
    "digits",
    "fashion-mnist",
    "imagenet",
    "imagenet-adv",
    "imagenet-k4",
)


@click.command(
    "adre-train",
    cls=Command,
    examples=["adre-train digits", "adre-train cifar10 --data ~/data --set lam=0.3"],
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("recipe", type=NameOrFile(RECIPES))
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting.")
@click.option(
    "--data", "root", type=click.Path(path_type=Path), help="Folder that holds the data set."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for checkpoints and metrics. [default: runs/RECIPE]",
)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the folder.")
@click.option("--init", type=click.Path(path_type=Path), help="Weights to begin with.")
@click.option("--max-steps", type=click.IntRange(min=1), help="Stop after this training step.")
@click.option(
    "--checkpoint-minutes",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Write a checkpoint this often within an epoch; 0: only after epochs.",
)
@click.option("--dry-run", is_flag=True, help="Print what would run and what it costs.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Processes that read images. [default: automatic]",
)
@click.option("--tensorboard", is_flag=True, help="Write the metrics for TensorBoard as well.")
@click.option("--traceback", is_flag=True, help="Show the whole traceback of an error.")
def main(
    recipe: str,
    settings: tuple[str, ...],
    root: Path | None,
    out: Path | None,
    resume: bool,
    init: Path | None,
    max_steps: int | None,
    checkpoint_minutes: float,
    dry_run: bool,
    workers: int | None,
    tensorboard: bool,
    traceback: bool,
) -> None:
    """Train a base classifier that certifies well once smoothed.

    RECIPE is one of the recipes that come along (digits, fashion-mnist, cifar10, cifar10-adv,
    imagenet, imagenet-k4, imagenet-adv) or a TOML file. For several devices start it with torchrun.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from adre_train.recipe import load

    chosen = load(recipe, settings)
    if not (chosen.dataset and chosen.architecture):
        raise ValueError(f"{recipe} must name a `dataset` and an `architecture`.")
    if dry_run:
        click.echo(describe(chosen, root))
        return
    try:
        _run(
            chosen,
            root,
            out or Path("runs") / Path(recipe).stem,
            resume=resume,
            init=init,
            max_steps=max_steps,
            checkpoint_minutes=checkpoint_minutes,
            workers=workers,
            tensorboard=tensorboard,
        )
    except RuntimeError as error:
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        raise click.ClickException(
            f"Memory ran out: `accumulate` cuts a batch into parts. {error}"
        ) from error


def describe(recipe: Recipe, root: Path | None) -> str:
    """Return the settings of a recipe, and an estimate of its cost on this machine."""
    import torch

    from adre_train.cost import DATA_SETS, TIMINGS, estimate
    from adre_train.fit import check_fits
    from tcertify import classifiers
    from tcertify import data as data_sets

    if recipe.dataset in DATA_SETS:
        count, shape, classes = DATA_SETS[recipe.dataset]
    else:
        images = data_sets.load(recipe.dataset, "train", root)
        count, shape, classes = len(images), images[0][0].shape, images.num_classes
    network = classifiers.new(recipe.architecture, classes)
    check_fits(network, recipe.dataset, shape, classes)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cost = estimate(recipe, network, count, shape, device)
    settings = [f"{key} = {value}" for key, value in dataclasses.asdict(recipe).items()]
    least, middle, most = (f"{seconds / 3600:.2g}" for seconds in cost.seconds)
    return "\n".join(
        [
            *settings,
            "",
            f"{cost.parameters:,} parameters, {cost.steps:,} steps, {cost.flop:.2g} FLOP",
            f"about {middle} hours on this machine's {device}: {least} to {most} by {TIMINGS}"
            f" timings of {cost.images} images at once in"
            f" {'bf16' if recipe.bf16 else 'float32'}, data loading and validation aside",
        ]
    )


def _run(
    recipe: Recipe,
    root: Path | None,
    out: Path,
    *,
    resume: bool,
    init: Path | None,
    max_steps: int | None,
    checkpoint_minutes: float,
    workers: int | None,
    tensorboard: bool,
) -> None:
    import torch
    from torch import distributed

    from adre_train.checkpoints import latest
    from adre_train.fit import check_fits
    from adre_train.train import train
    from tcertify import classifiers
    from tcertify import data as data_sets

    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    several = "LOCAL_RANK" in os.environ  # torchrun sets it
    if several:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        images = data_sets.load(recipe.dataset, "train", root)
        torch.manual_seed(recipe.seed)
        network = classifiers.new(recipe.architecture, images.num_classes)
        shape = tuple(images[0][0].shape)
        check_fits(network, images.name, shape, images.num_classes)
        if _restarted() and latest(out):  # torchrun repeats the command as it was
            resume, init = True, None
        path = train(
            network,
            images,
            recipe,
            out,
            resume=resume,
            init=init,
            max_steps=max_steps,
            checkpoint_minutes=checkpoint_minutes,
            workers=workers,
            tensorboard=tensorboard,
            device=device,
        )
    except BaseException as error:
        clear_frames(error.__traceback__)  # they hold what holds the process group
        raise
    finally:
        if several:
            distributed.destroy_process_group()
    if int(os.environ.get("RANK", 0)) == 0:
        click.echo(f"{path}")


def _restarted() -> bool:
    """Whether torchrun has started this process again, after one had died."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
