"""What a recipe will cost, before it runs."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from adre_train.objective import draw, risk
from adre_train.recipe import Recipe

#: Training images, their shape and the classes of each data set.
DATA_SETS: dict[str, tuple[int, tuple[int, ...], int]] = {
    "digits": (1433, (1, 8, 8), 10),
    "fashion-mnist": (60_000, (1, 28, 28), 10),
    "cifar10": (50_000, (3, 32, 32), 10),
    "imagenet": (1_281_167, (3, 224, 224), 1000),
}
TIMINGS = 3
#: On a CPU a timing takes as many images of the batch as this many seconds allow.
CPU_SECONDS = 5.0


@dataclass(frozen=True)
class Cost:
    """An estimate of a run: its steps and its arithmetic, and its time on a device, of which the
    least, the middle and the largest of three timings of `images` images are given.
    """

    parameters: int
    steps: int
    flop: float
    images: int
    seconds: tuple[float, float, float]


def estimate(
    recipe: Recipe,
    network: nn.Module,
    count: int,
    shape: tuple[int, ...],
    device: torch.device | str = "cpu",
) -> Cost:
    """Return what it costs to train `network` by a recipe on `count` images of a shape.

    The risk and its gradient are timed three times as the recipe trains: in its precision, and on
    the images that go through the network at once (a batch, or what `accumulate` leaves of it);
    on a CPU on as many of them as five seconds allow, where a larger part may take less for each
    image. Data loading, the optimiser's step and validation are left out.
    """
    device = torch.device(device)
    network.to(device).train()
    with FlopCounterMode(display=False) as counter:
        two = _time(recipe, network, shape, 2, device)
    images = -(-recipe.batch // recipe.accumulate)
    if device.type == "cpu":
        images = max(2, min(images, int(2 * CPU_SECONDS / two)))
    _time(recipe, network, shape, images, device)
    passes = recipe.epochs * count / images
    timings = sorted(passes * _time(recipe, network, shape, images, device) for _ in range(TIMINGS))
    return Cost(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        steps=recipe.epochs * -(-count // recipe.batch),
        flop=recipe.epochs * count / 2 * counter.get_total_flops(),
        images=images,
        seconds=(timings[0], statistics.median(timings), timings[-1]),
    )


def _time(
    recipe: Recipe,
    network: nn.Module,
    shape: tuple[int, ...],
    images: int,
    device: torch.device,
) -> float:
    """Return the seconds that the risk of random images and its gradient take."""
    x = torch.rand(images, *shape, device=device)
    y = torch.zeros(images, dtype=torch.int64, device=device)
    _settle(device)
    started = time.perf_counter()
    noise = draw(x, y, recipe, recipe.epochs)
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
        loss, _ = risk(network, network, x, y, noise, recipe, recipe.epochs)
    torch.autograd.backward(loss)
    _settle(device)
    network.zero_grad()
    return time.perf_counter() - started


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
