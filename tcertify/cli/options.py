"""Options and arguments that several commands share."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    import torch

    from tcertify.cluster import Ray
    from tcertify.data import Dataset

#: What the library knows, written out so that --help need not load it.
NOISES = ("auto", "integer", "gaussian")
METHODS = ("joint", "t-certify", "certify")
DATASETS = ("digits", "fashion-mnist", "cifar10", "imagenet")
CONSTANTS = ("cifar10", "imagenet", "none")

#: Units of time.
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours"}

#: What --ray stands for without an address.
_THIS_MACHINE = "this machine"

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


class NameOrFile(click.ParamType[str]):
    """Text that is one of the known names, a file, or something else; it completes in the shell."""

    name = "text"

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = names

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the text as it is."""
        return value

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin so, and leave files to the shell."""
        names = [CompletionItem(name) for name in self.names if name.startswith(incomplete)]
        return [CompletionItem(incomplete, type="file"), *names]


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


class Shard(click.ParamType[tuple[int, int]]):
    """I/N, one of N parts of a run."""

    name = "I/N"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return I and N."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", value)
        number, parts = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= parts:
            self.fail(f"it must be I/N with I from 1 to N, got {value!r}.", param, ctx)
        return number, parts


class Budget(click.ParamType[int | timedelta]):
    """A number of samples, or a time: 5e6, 90s, 45m, 2h."""

    name = "samples or time"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return samples as an int and a time as a timedelta."""
        if isinstance(value, (int, timedelta)):
            return value
        unit = _UNITS.get(value[-1:])
        try:
            amount = float(value[:-1] if unit else value)
            return timedelta(**{unit: amount}) if unit else _whole(amount)
        except (ValueError, OverflowError):
            self.fail(
                f"it must be a whole number of samples, such as 5e6, or a time, such as 90s, 45m or"
                f" 2h, got {value!r}.",
                param,
                ctx,
            )


def _whole(amount: float) -> int:
    if amount != int(amount):
        raise ValueError
    return int(amount)


class Address(click.ParamType[str]):
    """Where a cluster is; the option may stand alone, but not before an argument."""

    name = "address"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return HOST:PORT, auto or what stands for no address."""
        host, _, port = value.rpartition(":")
        if value in ("auto", _THIS_MACHINE) or (host and port.isdecimal()):
            return value
        self.fail(
            f"it takes HOST:PORT or auto, got {value!r}; without an address it must stand after"
            " the arguments.",
            param,
            ctx,
        )


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
    num_classes: int | None
    resize: int | None
    crop: int | None

    def load(self) -> Dataset:
        """Return the data set; an error about its folder names the option."""
        from tcertify import data

        if self.root is not None and not self.root.is_dir():
            raise click.BadParameter(f"{self.root} is no folder.", param_hint="--data")
        try:
            images = data.load(
                self.dataset,
                self.split,
                self.root,
                num_classes=self.num_classes,
                resize=self.resize,
                crop=self.crop,
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
        "--num-classes",
        type=int,
        help="Classes that the classifier answers.  [default: those of the data set]",
    ),
    click.option(
        "--resize", type=int, help="Scale images of a folder so that the shorter side is this long."
    ),
    click.option("--crop", type=int, help="Cut a square of this side from the centre."),
)


@dataclass(frozen=True)
class Selection:
    """Which of the images to take."""

    start: int
    stop: int | None
    skip: int
    most: int | None

    def indices(self, images: int) -> range:
        """Return the numbers of the images to take; there is at least one."""
        chosen = range(images)[self.start : self.stop : self.skip][: self.most]
        if not chosen:
            raise click.UsageError(
                f"--start {self.start} and --stop {self.stop} leave none of {images} images."
            )
        return chosen


selection_options = together(
    click.option(
        "--start",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Number of the first image to take.",
    ),
    click.option(
        "--stop",
        type=click.IntRange(min=1),
        help="Number of the image to stop before.  [default: none]",
    ),
    click.option(
        "--skip",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Take every SKIP-th image.",
    ),
    click.option(
        "--max", "most", type=click.IntRange(min=1), help="Take at most this many images."
    ),
)


@dataclass(frozen=True)
class ClusterOptions:
    """Whether a Ray cluster does the work, and with how many workers."""

    ray: str | None
    workers: int | None
    cpus: float | None
    gpus: float | None

    def cluster(
        self, images: DataOptions, model: ModelOptions, on_report: Callable[[str], None]
    ) -> Ray | None:
        """Return the cluster, if one was asked for; its workers load what is named here."""
        if self.ray is None:
            if (self.workers, self.cpus, self.gpus) != (None, None, None):
                raise click.UsageError(
                    "--workers, --cpus-per-worker and --gpus-per-worker need --ray."
                )
            return None
        if model.device != "auto":
            raise click.UsageError(
                "--device is for one machine: with --ray, --gpus-per-worker says where workers run."
            )
        from tcertify.cluster import Ray

        return Ray(
            None if self.ray == _THIS_MACHINE else self.ray,
            self.workers,
            1 if self.cpus is None else self.cpus,
            self.gpus,
            functools.partial(_load, images, model),
            on_report,
        )


def _load(images: DataOptions, model: ModelOptions) -> tuple[Any, Any]:
    """Load the classifier, on the CPU, and the data set: on a worker."""
    import torch

    return model.load(torch.device("cpu")), images.load()


cluster_options = together(
    click.option(
        "--ray",
        type=Address(),
        is_flag=False,
        flag_value=_THIS_MACHINE,
        metavar="[ADDRESS]",
        help="Run on a Ray cluster: of this machine, or at ADDRESS, which is HOST:PORT or auto.",
    ),
    click.option(
        "--workers", type=int, help="Workers of the cluster.  [default: as many as it has room for]"
    ),
    click.option(
        "--cpus-per-worker", "cpus", type=float, help="Cores of each worker.  [default: 1]"
    ),
    click.option(
        "--gpus-per-worker",
        "gpus",
        type=float,
        help="GPUs of each worker, such as 1 or 0.5.  [default: 1 where the cluster has any]",
    ),
)


class Argument(click.ParamType[tuple[str, Any]]):
    """A keyword argument, name=value: the value is a Python literal, else text."""

    name = "name=value"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the name and the value."""
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        if not (equals and name.isidentifier()):
            self.fail(f"it must be name=value, got {value!r}.", param, ctx)
        try:
            return name, ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return name, text


@dataclass(frozen=True)
class ModelOptions:
    """Which classifier to take, and where it runs."""

    model: str
    normalize: str | None
    arguments: tuple[tuple[str, Any], ...]
    device: str

    def load(self, device: torch.device) -> torch.nn.Module:
        """Return the classifier, on a device."""
        from tcertify import classifiers

        model = classifiers.load(
            self.model, normalize=self.normalize, arguments=dict(self.arguments)
        )
        return model.to(device)

    def found_device(self, elsewhere: bool = False) -> torch.device:
        """Return the device, if numbers can be computed there; the CPU where the work is done
        elsewhere.
        """
        import torch

        name = self.device
        if name == "auto":
            name = "cuda:0" if torch.cuda.is_available() and not elsewhere else "cpu"
        try:
            device = torch.device(name)
            torch.ones(1, device=device).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise click.BadParameter(
                f"{name} cannot compute: {str(error).splitlines()[0]}", param_hint="--device"
            ) from None
        return device


model_options = together(
    click.option(
        "--normalize",
        type=NameOrFile(CONSTANTS),
        metavar="CONSTANTS",
        help="Standardise images before MODEL: cifar10, imagenet, none, or MEAN/STD.",
    ),
    click.option(
        "--model-arg",
        "arguments",
        type=Argument(),
        multiple=True,
        metavar="NAME=VALUE",
        help="Argument for a MODEL that is a function; may be repeated.",
    ),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="Where the classifier runs: cpu, cuda:0 ...; auto takes a GPU where there is one.",
    ),
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
