"""What a recipe minimises: from images and a recipe to a risk, and the logits it was taken of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from adre_train.attack import noisy_logits, pgd
from adre_train.recipe import Recipe
from adre_train.risk import adre_risk, radius_risk, signed_radius_risk, stability
from tcertify.sampling import TRAINING
from tcertify_kernels import add_noise


def draw(x: Tensor, ids: Tensor, recipe: Recipe, epoch: int) -> Tensor:
    """Return the recipe's k draws of noise for each image, (k, B, ...): a pure function of (seed,
    the image's number, epoch, copy), on every device the same, and never noise that certifies.
    """
    rows, device = recipe.k * len(x), x.device
    noise = torch.empty(rows, *x.shape[1:], device=device)
    first = epoch * recipe.k
    samples = torch.arange(first, first + recipe.k, device=device).repeat_interleave(len(x))
    add_noise(
        noise,
        torch.zeros(1, *x.shape[1:], device=device),
        torch.zeros(rows, dtype=torch.int32, device=device),
        ids.repeat(recipe.k),
        samples,
        sigma=recipe.sigma,
        seed=recipe.seed,
        stream=TRAINING,
    )
    return noise.view(recipe.k, *x.shape)


def risk(
    forward: nn.Module,
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    noise: Tensor,
    recipe: Recipe,
    epoch: int,
) -> tuple[Tensor, Tensor]:
    """Return the recipe's risk of a batch under `noise` (k, B, ...), at the adversary's images if
    the recipe has one, and the logits (k, B, C) of the noisy copies. `forward` is `network`, or
    what wraps it for several processes.
    """
    if recipe.steps:
        eps = recipe.attack_radius(epoch)
        x = pgd(network, x, y, noise, lam=recipe.lam, eps=eps, steps=recipe.steps)
    if recipe.risk == "stability":
        logits = noisy_logits(forward, x, torch.cat([torch.zeros_like(noise[:1]), noise]))
        return stability(logits[0], logits[1:], y, lam=recipe.lam), logits[1:]
    logits = noisy_logits(forward, x, noise)
    shared: dict[str, Any] = {
        "lam": recipe.lam,
        "floor": recipe.floor,
        "label_smoothing": recipe.label_smoothing,
    }
    if recipe.risk == "adre":
        per: Any = recipe.per
        return adre_risk(logits, y, per=per, **shared), logits
    of_radius = radius_risk if recipe.risk == "radius" else signed_radius_risk
    return of_radius(logits, y, sigma=recipe.sigma, **shared), logits
