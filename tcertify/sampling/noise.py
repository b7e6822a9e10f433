"""The noise that is added to images, drawn from (seed, image id, sample id, stream) alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor

from tcertify._checks import check_choice, check_positive, check_whole
from tcertify.bounds import charge
from tcertify_kernels import add_integer_noise, add_noise, check_grid
from tcertify_kernels.integer_noise import MAX_REACH, check_levels, on_grid, reach

#: Streams of noise that never overlap: choosing the class, certifying it, predicting, looking at
#: a network while it is trained, drawing votes for the user's own code, and training itself.
SELECTION, ESTIMATION, PREDICTION, VALIDATION, DRAWN, TRAINING = range(6)

#: What can be asked for; "auto" is one of the others, as `choose_noise` finds.
NOISES = ("auto", "integer", "gaussian")

#: Grey levels above 0 that are tried where nobody says any.
LEVELS = 255

#: A larger `n_tau` is worth a warning: alpha may be off by this part of it.
MOST_OWED = 0.01


class Noise(Protocol):
    """What a `Sampler` adds to images. A frozen value: equal ones draw the same noise."""

    @property
    def kind(self) -> str:
        """Such as ``"gaussian"``."""

    @property
    def levels(self) -> int | None:
        """Grey levels above 0, of noise on integers."""

    @property
    def sigma(self) -> float:
        """Standard deviation, in the units of the images."""

    @property
    def seed(self) -> int:
        """From 0 to 2^64 - 1."""

    def check(self, images: Tensor, image_ids: Iterable[int]) -> None:
        """Raise a ValueError that names the first image that this noise must not be added to; all
        are finite.
        """

    def suits(self, images: Tensor) -> Tensor:
        """Return which images (S, ...) are finite and pass `check`: bool (S,), on their device, for
        which the host does not wait.
        """

    def add(
        self,
        out: Tensor,
        invalid: Tensor,
        images: Tensor,
        slot: Tensor,
        image_ids: Tensor,
        samples: Tensor,
        *,
        stream: int,
    ) -> Tensor:
        """Fill and return `out`: its row i is image ``slot[i]`` with sample ``samples[i]`` of the
        noise of ``image_ids[i]``. Where the noise has `levels`, it sets in `invalid`, bool (B,),
        which rows must not vote. Everything is on one device, as the kernels have it.
        """

    def louder(self, times: int) -> Self:
        """Return this noise with so many times its standard deviation, or as many as there are."""

    def n_tau(self, n: int, size: int, alpha: float) -> float | None:
        """Return what the noise as drawn may do to alpha: a certificate of `n` samples of `size`
        numbers fails with probability at most ``alpha * exp(n_tau)``; None where it is alpha.
        """

    def charged_alpha(self, n: int, size: int, alpha: float) -> float:
        """Return the level at which votes under this noise, as it is drawn, support `alpha`."""


@dataclass(frozen=True)
class GaussianNoise:
    """Independent normal noise on each element of a float image.

    Parameters
    ----------
    sigma : float
        Standard deviation, in the units of the images.
    seed : int
        From 0 to 2^64 - 1.
    """

    sigma: float
    seed: int = 0

    kind: ClassVar[str] = "gaussian"
    levels: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        _check(self)

    def check(self, images: Tensor, image_ids: Iterable[int]) -> None:
        """Refuse no image."""

    def suits(self, images: Tensor) -> Tensor:
        """Return which images are finite."""
        return images.isfinite().reshape(len(images), -1).all(1)

    def add(
        self,
        out: Tensor,
        invalid: Tensor,
        images: Tensor,
        slot: Tensor,
        image_ids: Tensor,
        samples: Tensor,
        *,
        stream: int,
    ) -> Tensor:
        """Fill and return `out`, as `add_noise` does; every row may vote."""
        return add_noise(
            out, images, slot, image_ids, samples, sigma=self.sigma, seed=self.seed, stream=stream
        )

    def louder(self, times: int) -> Self:
        """Return this noise with so many times its standard deviation."""
        return replace(self, sigma=self.sigma * times)

    def n_tau(self, n: int, size: int, alpha: float) -> float:
        """Return the exponent by which alpha may grow, as docs/guarantees.md derives it: of the
        lost tail by its total variation, of the bend by its Renyi divergence.

        Examples
        --------
        >>> round(GaussianNoise(0.5).n_tau(100_000, 3 * 224 * 224, 0.001), 4)
        0.0197
        """
        return charge.n_tau(alpha, n, size)

    def charged_alpha(self, n: int, size: int, alpha: float) -> float:
        """Return a level below alpha, as `tcertify.bounds.charged_alpha` does."""
        return charge.charged_alpha(alpha, n, size)


@dataclass(frozen=True)
class IntegerNoise:
    """Normal noise rounded to whole grey levels, drawn without any error, on images of whole grey
    levels: a vote is an exact sample of a function of the image plus real Gaussian noise.

    Parameters
    ----------
    sigma : float
        Standard deviation of the Gaussian, in the units of the images; at least 0.3 / levels.
    levels : int
        V: every pixel of an image is one of 0, 1 / V, ..., 1.
    seed : int
        From 0 to 2^64 - 1.
    """

    sigma: float
    levels: int
    seed: int = 0

    kind: ClassVar[str] = "integer"

    def __post_init__(self) -> None:
        _check(self)
        object.__setattr__(self, "levels", check_levels(self.levels))
        reach(self.sigma, self.levels)

    def check(self, images: Tensor, image_ids: Iterable[int]) -> None:
        """Refuse images off the grid: the sentence names the image, the pixel and its value."""
        if is_on_grid(images, self.levels):
            return
        for image, image_id in zip(images, image_ids, strict=True):
            try:
                check_grid(image, self.levels)
            except ValueError as error:
                raise ValueError(f"Image {image_id}: {error}") from None

    def suits(self, images: Tensor) -> Tensor:
        """Return which images are on the grid, where no NaN and no Inf is."""
        return on_grid(images, self.levels).reshape(len(images), -1).all(1)

    def add(
        self,
        out: Tensor,
        invalid: Tensor,
        images: Tensor,
        slot: Tensor,
        image_ids: Tensor,
        samples: Tensor,
        *,
        stream: int,
    ) -> Tensor:
        """Fill and return `out` and mark ties in `invalid`, as `add_integer_noise` does."""
        return add_integer_noise(
            out,
            invalid,
            images,
            slot,
            image_ids,
            samples,
            sigma=self.sigma,
            levels=self.levels,
            seed=self.seed,
            stream=stream,
        )

    def louder(self, times: int) -> Self:
        """Return this noise with so many times its standard deviation, or as many as fit."""
        most = (MAX_REACH - self.levels - 1) / (9 * self.levels)
        return replace(self, sigma=max(self.sigma, min(self.sigma * times, most)))

    def n_tau(self, n: int, size: int, alpha: float) -> None:
        """Return None: nothing is owed."""

    def charged_alpha(self, n: int, size: int, alpha: float) -> float:
        """Return alpha: nothing is owed."""
        return alpha


def make_noise(kind: str, sigma: float, seed: int = 0, levels: int | None = None) -> Noise:
    """Return the noise of one kind; `levels` are those of integer noise."""
    if kind == IntegerNoise.kind:
        return IntegerNoise(sigma, LEVELS if levels is None else levels, seed)
    if levels is not None:
        raise ValueError(f"`levels` are those of integer noise, got {levels!r} with {kind} noise.")
    return GaussianNoise(sigma, seed)


def choose_noise(
    noise: str,
    sigma: float,
    seed: int = 0,
    *,
    levels: int | None = None,
    known: int | None = None,
    images: Iterable[Tensor] = (),
) -> Noise:
    """Return the noise that was asked for; "auto" is integer noise wherever it can be.

    That is where sigma is at least 0.3 grey levels and small enough for the tables, and either a
    data set says its levels (`known`) or `images`, of which there must be one, are on the grid of
    `levels`, 255 without them. They are looked at only where it depends on them.

    Raises
    ------
    ValueError
        Arguments out of range; integer noise that was asked for and cannot be.
    """
    check_choice("noise", noise, NOISES)
    if noise != "auto":
        asked = known if noise == IntegerNoise.kind and levels is None else levels
        return make_noise(noise, sigma, seed, asked)
    gaussian = GaussianNoise(sigma, seed)
    tried = check_levels(next(v for v in (levels, known, LEVELS) if v is not None))
    try:
        integer = IntegerNoise(gaussian.sigma, tried, gaussian.seed)
    except ValueError:  # more or less than the tables hold
        return gaussian
    if levels is None and known is not None:
        return integer
    found = [is_on_grid(image, tried) for image in images]
    return integer if found and all(found) else gaussian


def owed(n_tau: float) -> str:
    """Return the warning that `n_tau` is large."""
    return (
        "The Gaussian noise as drawn is not exactly Gaussian: a certificate may be wrong with up to"
        f" {math.exp(n_tau):.4g} times alpha. `charge_noise` makes up for it; integer noise has no"
        " such error."
    )


def check_charge(charge_noise: bool, noise: str) -> None:
    """Refuse to charge for the errors of a noise that is known to have none."""
    if charge_noise and noise == IntegerNoise.kind:
        raise ValueError(
            "`charge_noise` is for Gaussian noise: integer noise is drawn without any error."
        )


def is_on_grid(images: Tensor, levels: int) -> bool:
    """Whether all pixels are k / levels within the rounding of float32, as `check_grid` has it."""
    try:
        check_grid(images, levels)
    except ValueError:
        return False
    return True


def without_ties(logits: Tensor, invalid: Tensor) -> Tensor:
    """Return the logits with NaN, which no class receives, in the rows that must not vote."""
    return logits.masked_fill(invalid[:, None], torch.nan)


def _check(noise: GaussianNoise | IntegerNoise) -> None:
    object.__setattr__(noise, "sigma", check_positive("sigma", noise.sigma))
    seed = check_whole("seed", noise.seed, minimum=0, maximum=2**64 - 1)
    object.__setattr__(noise, "seed", seed)
