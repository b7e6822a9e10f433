"""What a recipe will cost, before it runs."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from adre_train.recipe import Recipe
from adre_train.train import risk
from tcertify.classifiers.networks import build

#: Training images, their shape and the classes of each data set.
DATA_SETS = {
    "digits": (1433, (1, 8, 8), 10),
    "cifar10": (50_000, (3, 32, 32), 10),
    "imagenet": (1_281_167, (3, 224, 224), 1000),
}


@dataclass(frozen=True)
class Cost:
    """An estimate of a run: its steps, its arithmetic, and its time on a device."""

    parameters: int
    steps: int
    flop: float
    seconds: float


def estimate(recipe: Recipe, device: torch.device | str = "cpu", images: int = 2) -> Cost:
    """Return what a recipe costs on a device, from the risk and gradient of a few images timed now.

    Data loading and validation are left out, and a larger batch may run faster an image.
    """
    total, shape, classes = DATA_SETS[recipe.dataset]
    network = build(recipe.architecture, classes).to(device)
    x, y = torch.rand(images, *shape, device=device), torch.zeros(images, dtype=torch.int64)

    def step() -> None:
        torch.autograd.backward(risk(network, network, x, y.to(device), recipe, recipe.epochs))

    with FlopCounterMode(display=False) as counter:
        step()
    started = time.perf_counter()
    step()
    if x.is_cuda:
        torch.cuda.synchronize()
    elapsed = time.perf_counter() - started
    rounds = recipe.epochs * total / images
    return Cost(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        steps=recipe.epochs * -(-total // recipe.batch),
        flop=rounds * counter.get_total_flops(),
        seconds=rounds * elapsed,
    )
