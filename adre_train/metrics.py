"""What one must see of a training while it runs: the columns of ``metrics.csv``, and collapses."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from adre_train.recipe import Recipe
from adre_train.risk import log_g, runner_up

COLUMNS = (
    *("epoch", "lr", "loss", "l_per", "l_adre", "at_floor", "noisy_accuracy", "largest_class"),
    *("gradient_norm", "images_per_s", "seconds", "certified_accuracy", "average_radius"),
)
#: The means over images, in the order in which `Meter` sums them.
_MEANS = ("loss", "l_per", "l_adre", "at_floor", "noisy_accuracy")
#: From this share on, all images count as one class or at the floor.
_ALL = 0.99


class Meter:
    """Sums over the images of an epoch, kept on the device: adding to them waits for nothing.

    l_per and l_adre are the paper's, without label smoothing, l_adre with G[c*] at the floor at
    least; `at_floor` is the share of images there, `noisy_accuracy` that of the noisy copies
    classified rightly, and `largest_class` the share of images that the softmax averaged over the
    copies gives to the class it gives most.
    """

    def __init__(self, num_classes: int, recipe: Recipe, device: torch.device) -> None:
        self._recipe, self._norms, self._steps = recipe, torch.zeros((), device=device), 0
        self._sums = torch.zeros(len(_MEANS), dtype=torch.float64, device=device)
        self._predicted = torch.zeros(num_classes, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, y: Tensor, images: float) -> None:
        """Add a batch that stands for so many images: its loss, its logits (k, B, C), its labels.

        The images are none where a process without an image in a short batch takes another's.
        """
        log_mean = log_g(logits)
        rival = runner_up(log_mean, y)
        floor = math.log(self._recipe.floor) if self._recipe.floor else -math.inf
        copies = y.expand(len(logits), -1)
        means = (
            loss,
            torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), copies.flatten()),
            -rival.clamp(min=floor).mean(),
            (rival <= floor).double().mean(),
            (logits.argmax(-1) == copies).double().mean(),
        )
        self._sums += images * torch.stack([mean.double() for mean in means])
        weights = torch.full_like(y, images / len(y), dtype=torch.float64)
        self._predicted.index_add_(0, log_mean.argmax(1), weights)

    def add_step(self, norm: Tensor) -> None:
        """Add a step, with the norm of its gradient."""
        self._norms += norm
        self._steps += 1

    def row(self, seconds: float, *, together: bool) -> dict[str, float]:
        """Return the means so far, those of all processes if `together`; this waits."""
        sums = torch.cat([self._sums, self._predicted])
        if together:
            distributed.all_reduce(sums)
        totals, predicted = sums[: len(_MEANS)].tolist(), sums[len(_MEANS) :]
        images = float(predicted.sum())
        row = {name: total / images for name, total in zip(_MEANS, totals, strict=True)}
        row["largest_class"] = float(predicted.max()) / images
        row["gradient_norm"] = float(self._norms) / self._steps
        return row | {"images_per_s": round(images / seconds, 1), "seconds": round(seconds, 3)}


def collapses(row: dict[str, float], recipe: Recipe, epoch: int) -> Iterator[str]:
    """Yield a sentence for each way in which the training that `row` describes has collapsed.

    A network that is not yet trained may well answer with one class: the first epoch is passed
    over there.
    """
    share, accuracy = row["largest_class"], row["noisy_accuracy"]
    if epoch > 0 and share >= _ALL and accuracy < share / 2:
        yield (
            f"The training has collapsed: {share:.0%} of the images get one class, at a noisy "
            f"accuracy of {accuracy:.0%}; lower `lam` or `lr`, or raise `floor`."
        )
    if recipe.risk == "adre" and recipe.lam and row["at_floor"] >= _ALL:
        yield (
            f"The regulariser has no gradient left: {row['at_floor']:.0%} of the images are at "
            f"the floor of {recipe.floor:g}."
        )


def to_csv(history: Sequence[dict[str, Any]]) -> bytes:
    """Return the history as CSV, a line for each epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue().encode()
