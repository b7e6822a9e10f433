"""Data sets that certify and train: one file each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from tcertify.data.dataset import Dataset

#: What `load` knows: each is a module of this package with a function ``load(split)``.
NAMES = ("digits",)


def load(name: str, split: str = "test") -> Dataset:
    """Load the data set called `name`; an unknown name is an error that says what exists."""
    if name not in NAMES:
        raise ValueError(f"DATASET must be one of {', '.join(NAMES)}, got {name!r}.")
    module = importlib.import_module(f"tcertify.data.{name}")
    return cast("Dataset", module.load(split))
