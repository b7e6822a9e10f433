"""Options and arguments that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tcertify.data import Dataset

#: What the library knows, written out so that --help need not load it.
NOISES = ("auto", "integer", "gaussian")
METHODS = ("joint", "t-certify", "certify")

PATH = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)

sigma_option = click.option(
    "--sigma", type=float, required=True, help="Standard deviation of the noise, in pixel units."
)
alpha_option = click.option(
    "--alpha",
    type=float,
    default=0.001,
    show_default=True,
    help="Probability that a certificate may be wrong.",
)
radii_help = "Radii, separated by commas."


class Radii(click.ParamType[list[float]]):
    """Radii separated by commas."""

    name = "radii"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the radii as floats."""
        if isinstance(value, list):
            return value
        try:
            return [float(part) for part in value.split(",")]
        except ValueError:
            self.fail(f"radii must be numbers separated by commas, got {value!r}.", param, ctx)


class Seed(click.ParamType[int | str]):
    """A number, or how to find one."""

    name = "seed"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return a number as an int, and a name as it is."""
        if isinstance(value, int) or value in ("random", "derived"):
            return value
        try:
            return int(value)
        except ValueError:
            self.fail(f"it must be a number, random or derived, got {value!r}.", param, ctx)


def together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return one decorator that adds several options, in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@dataclass(frozen=True)
class DataOptions:
    """Which images to take."""

    dataset: str
    split: str
    root: Path | None
    resize: int | None
    crop: int | None

    def load(self) -> Dataset:
        """Return the data set; an error about its folder names the option."""
        from tcertify import data

        if self.root is not None and not self.root.is_dir():
            raise click.BadParameter(f"{self.root} is no folder.", param_hint="--data")
        try:
            images = data.load(
                self.dataset, self.split, self.root, resize=self.resize, crop=self.crop
            )
        except FileNotFoundError as error:
            if error.errno is not None:  # of the user's own code
                raise
            where = f"--data {self.root}: " if self.root is not None else ""
            raise click.ClickException(f"{where}{error}") from None
        if not len(images):
            raise click.ClickException(f"DATASET {self.dataset} holds no image.")
        return images


data_options = together(
    click.option("--split", default="test", show_default=True, help="Split of the data set."),
    click.option("--data", "root", type=FOLDER, help="Folder that holds cifar10 or imagenet."),
    click.option(
        "--resize", type=int, help="Scale images of a folder so that the shorter side is this long."
    ),
    click.option("--crop", type=int, help="Cut a square of this side from the centre."),
)


def gathered(kind: type[Any], name: str) -> Callable[[Any], Any]:
    """Return a decorator that hands a command its shared options as one `kind` named `name`."""
    names = [field.name for field in fields(kind)]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def called(**values: Any) -> Any:
            values[name] = kind(**{option: values.pop(option) for option in names})
            return command(**values)

        return called

    return decorate
