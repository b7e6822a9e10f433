"""Standardising as a first layer, so that noise and radii stay in the images' own units."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

#: Channel means and standard deviations by the names that ``--normalize`` takes.
CONSTANTS: dict[str, tuple[tuple[float, ...], tuple[float, ...]] | None] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": None,
}


class Standardise(nn.Module):
    """Subtract the channels' means and divide by their standard deviations.

    The constants move with the module but are no part of its state: published files lack them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the standardised images, (N, C, H, W)."""
        return (images - self.mean) / self.std


def standardising_layer(normalize: str) -> nn.Module:
    """Return the first layer that `normalize` names.

    Parameters
    ----------
    normalize : str
        ``"cifar10"``, ``"imagenet"``, ``"none"``, or ``MEAN/STD``: a number for each channel,
        separated by commas, such as ``0.5,0.5,0.5/0.25,0.25,0.25``.

    Raises
    ------
    ValueError
        It is none of these, or a standard deviation is not positive.
    """
    constants = CONSTANTS[normalize] if normalize in CONSTANTS else _constants(normalize)
    return nn.Identity() if constants is None else Standardise(*constants)


def _constants(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        mean, std = ([float(part) for part in side.split(",")] for side in text.split("/"))
    except ValueError:
        mean, std = [], []
    if not mean or len(mean) != len(std) or not all(map(math.isfinite, (*mean, *std))):
        known = ", ".join(CONSTANTS)
        raise ValueError(
            f"`normalize` must be one of {known}, or MEAN/STD with a number for each channel, such"
            f" as 0.5,0.5,0.5/0.25,0.25,0.25, got {text!r}."
        )
    if min(std) <= 0:
        raise ValueError(f"`normalize` must have positive standard deviations, got {text!r}.")
    return tuple(mean), tuple(std)
