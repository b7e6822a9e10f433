"""Which images make which batch: a pure function of seed, epoch, step and process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from adre_train.augment import Augmented
from adre_train.recipe import Recipe
from tcertify.data import Dataset, TensorDataset

#: A validation split is every image whose number ends in 9: a tenth, of every class where the
#: images are sorted or in no order.
HELD_OUT = 10
MOST_WORKERS = 8


def held_out(count: int) -> NDArray[np.int64]:
    """Return the numbers of the validation images among `count` training images."""
    return np.arange(HELD_OUT - 1, count, HELD_OUT)


class Share(NamedTuple):
    """A process's images of a batch, their labels and numbers, their share of it, and its size."""

    x: Tensor
    y: Tensor
    ids: Tensor
    share: float
    size: int


class Batches:
    """The batches of a training: this process's share of each, read ahead by worker processes.

    Without validation all images are trained on, otherwise all but those of `held_out`. The readers
    stay alive from epoch to epoch.
    """

    def __init__(
        self,
        data: Dataset,
        recipe: Recipe,
        *,
        rank: int,
        processes: int,
        workers: int | None,
        device: torch.device,
    ) -> None:
        every = np.arange(len(data))
        self._ids = np.setdiff1d(every, held_out(len(data))) if recipe.validate_every else every
        if not len(self._ids):
            raise ValueError(f"{data.name} has no image to train on.")
        self._recipe, self._rank, self._processes = recipe, rank, processes
        self.steps = -(-len(self._ids) // recipe.batch)
        if workers is None:
            workers = default_workers(data, device, processes)
        self._order = _Order()
        self._loader = DataLoader(
            Augmented(data, recipe.augment, recipe.seed),
            batch_sampler=self._order,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
        )

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Share]:
        """Yield this process's share of each batch from step `first` on.

        A process without an image in a short batch takes one of its images at a share of 0.
        """
        batch, rng = self._recipe.batch, np.random.default_rng((self._recipe.seed, epoch))
        order = self._ids[rng.permutation(len(self._ids))].tolist()
        whole = [order[i : i + batch] for i in range(first * batch, len(order), batch)]
        own = [images[self._rank :: self._processes] for images in whole]
        read = [part or images[:1] for part, images in zip(own, whole, strict=True)]
        self._order.batches = [[(epoch, index) for index in part] for part in read]
        for (x, y), part, ids, all_of_it in zip(self._loader, own, read, whole, strict=True):
            yield Share(x, y, torch.tensor(ids), len(part) / len(all_of_it), len(all_of_it))


class _Order:
    """What the loader reads next; set anew for every epoch."""

    batches: list[list[tuple[int, int]]]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def default_workers(data: Dataset, device: torch.device, processes: int) -> int:
    """Return how many processes read images: none where they are in memory, or where the training
    needs the cores itself; otherwise the cores that there are for each process, at most 8.
    """
    if isinstance(data, TensorDataset) or device.type == "cpu":
        return 0
    return min(MOST_WORKERS, max(1, (os.cpu_count() or 1) // processes))


def check_images(batch: Share, name: str, num_classes: int) -> None:
    """Raise unless the images of a batch are in [0, 1] and their labels are classes, naming the
    first image that is not so. The batch is on the CPU.
    """
    if not isinstance(batch.y, Tensor) or batch.y.is_floating_point():
        kind = batch.y.dtype if isinstance(batch.y, Tensor) else type(batch.y[0]).__name__
        raise ValueError(f"The labels of {name} must be whole numbers, got {kind}.")
    low, high = batch.x.flatten(1).aminmax(dim=1)
    for wrong, value, must in (
        (~((low >= 0) & (high <= 1)), torch.where(high > 1, high, low), "pixels in [0, 1]"),
        ((batch.y < 0) | (batch.y >= num_classes), batch.y, f"a label in [0, {num_classes})"),
    ):
        if wrong.any():
            first = int(wrong.int().argmax())
            advice = ": standardise in the network's first layer" if value is not batch.y else ""
            raise ValueError(
                f"Image {int(batch.ids[first])} of {name} must have {must}, got "
                f"{value[first].item():g}{advice}."
            )


def parts(batch: Share, count: int) -> Iterator[tuple[tuple[Tensor, Tensor, Tensor], float, bool]]:
    """Cut a share into at most `count` parts (images, labels, numbers), each with its weight, and
    mark the last.
    """
    cut = list(zip(*(tensor.chunk(count) for tensor in batch[:3]), strict=True))
    for number, part in enumerate(cut, 1):
        yield part, batch.share * len(part[1]) / len(batch.y), number == len(cut)
