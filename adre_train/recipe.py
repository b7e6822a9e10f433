"""A recipe: everything that decides what a training run computes, but for the data's place."""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tcertify._checks import check_non_negative, check_positive, check_whole

CHOICES = {
    "risk": ("adre", "radius", "signed-radius", "stability"),
    "per": ("mean", "single"),
    "schedule": ("step", "cosine"),
    "augment": ("none", "crop-flip", "resized-crop-flip"),
}
POSITIVE = ("sigma", "lr")
NON_NEGATIVE = ("lam", "eps", "warmup", "eps_warmup", "momentum", "weight_decay", "clip")
AT_LEAST_ONE = (
    *("k", "epochs", "batch", "step_every", "accumulate"),
    *("validate_images", "validate_samples"),
)
AT_LEAST_ZERO = ("steps", "seed", "validate_every")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of a run; a TOML file names those that differ from these defaults.

    Raises
    ------
    ValueError
        If a setting is out of range, or contradicts another; the message names it.
    """

    # What `adre-train` trains, as `tcertify.data.load` and `tcertify.classifiers.new` know it.
    # Empty where Python gives both to `train`.
    dataset: str = ""
    architecture: str = ""

    # The risk: see `adre_risk`, `radius_risk`, `signed_radius_risk` and `stability`.
    sigma: float = 0.5
    k: int = 8
    lam: float = 0.1
    risk: str = "adre"
    per: str = "mean"
    floor: float = 1e-6
    label_smoothing: float = 0.0

    # The adversary: see `pgd`. eps grows linearly to its value over the first eps_warmup epochs.
    eps: float = 0.0
    steps: int = 0
    eps_warmup: float = 0

    # Stochastic gradient descent. The batch counts images over all processes; `accumulate` cuts
    # each process's share into that many passes of the network. A step's gradient is shortened to
    # the norm `clip`; 0 leaves it as it is.
    epochs: int = 30
    batch: int = 128
    lr: float = 0.1
    schedule: str = "cosine"
    step_every: int = 50
    warmup: float = 0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip: float = 0.0
    augment: str = "none"
    accumulate: int = 1
    bf16: bool = False
    channels_last: bool = False
    compile: bool = False
    seed: int = 0

    # Every so many epochs (0: never), certify so many validation images with so many samples. The
    # validation images are every tenth training image; they are not trained on.
    validate_every: int = 0
    validate_images: int = 100
    validate_samples: int = 500

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                known = ", ".join(choices)
                raise ValueError(f"`{name}` must be one of {known}, got {getattr(self, name)!r}.")
        for name in POSITIVE:
            check_positive(name, getattr(self, name))
        for name in NON_NEGATIVE:
            check_non_negative(name, getattr(self, name))
        for name in AT_LEAST_ONE:
            check_whole(name, getattr(self, name))
        for name in AT_LEAST_ZERO:
            check_whole(name, getattr(self, name), minimum=0)
        for name in ("floor", "label_smoothing"):
            if not 0 <= check_non_negative(name, getattr(self, name)) < 1:
                raise ValueError(f"`{name}` must be in [0, 1), got {getattr(self, name)}.")
        for sentence in _contradictions(self):
            raise ValueError(sentence)

    def learning_rate(self, epoch: float) -> float:
        """Return the rate at a moment, in epochs with fractions: a linear rise to `lr` over
        `warmup` epochs, then a tenth every `step_every` epochs or a half cosine down to 0.
        """
        if epoch < self.warmup:
            return self.lr * epoch / self.warmup
        if self.schedule == "step":
            return float(self.lr * 0.1 ** (epoch // self.step_every))
        done = (epoch - self.warmup) / (self.epochs - self.warmup)
        return self.lr / 2 * (1 + math.cos(math.pi * done))

    def attack_radius(self, epoch: int) -> float:
        """Return eps in an epoch: a linear rise over the first `eps_warmup` epochs."""
        return self.eps * min(1.0, (epoch + 1) / self.eps_warmup) if self.eps_warmup else self.eps


def _contradictions(recipe: Recipe) -> Iterator[str]:
    """Return a sentence for each setting that contradicts another."""
    adre, stable = recipe.risk == "adre", recipe.risk == "stability"
    unread = f"for `risk` {recipe.risk}, which does not read it"
    one_copy = adre and recipe.lam == 0 and recipe.per == "single" and not recipe.steps
    table = {
        "`eps` needs an attack: give `steps` as well": recipe.eps and not recipe.steps,
        "`steps` need a radius of the attack: give `eps` as well": recipe.steps and not recipe.eps,
        "`eps_warmup` needs an attack: give `eps` and `steps`": (
            recipe.eps_warmup and not recipe.eps
        ),
        f"`eps_warmup` is {recipe.eps_warmup:g} of {recipe.epochs} epochs, so that `eps` is never "
        "reached": recipe.eps_warmup > recipe.epochs,
        f"`warmup` is {recipe.warmup:g} of {recipe.epochs} epochs, so that `lr` is never "
        "reached": recipe.warmup >= recipe.epochs,
        f"`steps` attack the risk of adre, not of {recipe.risk}": recipe.steps and not adre,
        f"`per` = {recipe.per} is set {unread}": recipe.per != Recipe.per and not adre,
        f"`floor` = {recipe.floor:g} is set {unread}": recipe.floor != Recipe.floor and stable,
        f"`label_smoothing` is set {unread}": recipe.label_smoothing and stable,
        f"`floor` must be in (0, 0.5) for `risk` {recipe.risk}, got {recipe.floor:g}": (
            not adre and not stable and not 0 < recipe.floor < 0.5
        ),
        f"`k` makes {recipe.k} copies, of which `per` = single uses one at lam = 0": (
            one_copy and recipe.k > 1
        ),
        f"`accumulate` = {recipe.accumulate} parts are more than the {recipe.batch} images of a "
        "batch": recipe.accumulate > recipe.batch,
    }
    return (f"{sentence}." for sentence, contradicts in table.items() if contradicts)


def load(name: str, settings: Iterable[str] = ()) -> Recipe:
    """Return a recipe of this package by its name, or from a TOML file by its path, with the
    settings ``key=value`` put over it.

    Raises
    ------
    FileNotFoundError
        If there is neither such a recipe nor such a file.
    ValueError
        If the file is no TOML, or a key or value is not one of a recipe's.
    """
    values = _parse(_read(name), name)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"`--set` must be key=value, got {setting!r}.")
        values[key.strip()] = _value(value.strip())
    return Recipe(**{key: _typed(key, value) for key, value in values.items()})


def names() -> list[str]:
    """Return the names of the package's recipes."""
    folder = resources.files("adre_train") / "recipes"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir())


def _read(name: str) -> str:
    if name in names():
        return (resources.files("adre_train") / "recipes" / f"{name}.toml").read_text("utf-8")
    try:
        return Path(name).read_text("utf-8")
    except FileNotFoundError:
        known = ", ".join(names())
        raise FileNotFoundError(
            f"{name} is neither a file nor one of the recipes {known}."
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is no TOML: {error}.") from None


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{source} is no TOML: {error}") from error


def _value(text: str) -> Any:
    """Return what TOML makes of a value; what it makes nothing of is a bare word."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError, RecursionError):
        return text


def _typed(key: str, value: Any) -> Any:
    """Return `value` if a recipe has such a key and the key's type allows it."""
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    if key not in fields:
        near = difflib.get_close_matches(key, fields, 1) or sorted(fields)
        raise ValueError(f"A recipe has no `{key}`. Did you mean {' or '.join(near)}?")
    kind = type(fields[key].default)
    if fields[key].type == "float" and type(value) in (int, float):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"`{key}` must be a finite number, got one larger.") from None
    if type(value) is not kind:
        raise ValueError(f"`{key}` must be {fields[key].type}, got {value!r}.")
    return value
