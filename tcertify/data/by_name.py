"""Data sets by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tcertify.data.dataset import Dataset

#: What `load` knows.
NAMES = ("digits", "cifar10", "imagenet")


def load(name: str, split: str = "test", root: str | Path | None = None) -> Dataset:
    """Load the data set called `name`; an unknown name is an error that says what exists.

    `root` is the folder that holds the data, for all but the digits, which need none.
    """
    if name not in NAMES:
        raise ValueError(f"DATASET must be one of {', '.join(NAMES)}, got {name!r}.")
    from tcertify.data import cifar10, digits, imagenet

    if name == "digits":
        return digits.load(split)
    if root is None:
        raise ValueError(f"`root` must name the folder that holds {name}, got None.")
    return cifar10.load(split, root) if name == "cifar10" else imagenet.load(split, root)
