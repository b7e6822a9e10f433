"""What a recipe minimises: from images and a recipe to a risk, and the logits it was taken of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from adre_train.attack import noisy_logits, pgd
from adre_train.recipe import Recipe
from adre_train.risk import adre_risk, radius_risk, signed_radius_risk, stability


def risk(
    forward: nn.Module, network: nn.Module, x: Tensor, y: Tensor, recipe: Recipe, epoch: int
) -> tuple[Tensor, Tensor]:
    """Return the recipe's risk of a batch under fresh noise, at the adversary's images if the
    recipe has one, and the logits (k, B, C) of the noisy copies. `forward` is `network`, or what
    wraps it for several processes.
    """
    noise = recipe.sigma * torch.randn(recipe.k, *x.shape, device=x.device)
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
