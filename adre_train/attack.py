"""The attack on the smoothed classifier that adversarial training trains against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from adre_train.risk import check_batch, log_g, runner_up
from tcertify._checks import check_non_negative, check_whole


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    noise: Tensor,
    *,
    lam: float,
    eps: float,
    steps: int,
) -> Tensor:
    """Images within `eps` of `x` in l2, and in [0, 1], that the smoothed classifier finds harder:
    ADRE_ADV's adversary.

    Projected gradient ascent on ``CE(G(x'), y) - lam * CE(G(x'), c*)`` (eq. 12, 13) from x' = x:
    `steps` steps of length 2 eps / steps along the gradient, which is normalised for each image,
    each followed by a clamp to [0, 1] and a pull towards x onto the eps-ball. The same noise
    serves every step, and should serve the training forward pass that follows.

    Parameters
    ----------
    model : torch.nn.Module
        The base classifier, (N, ...) images to (N, C) logits. It is in eval mode and its parameters
        are frozen during the attack; both are as before afterwards, exceptions included.
    x : torch.Tensor
        The images, (B, ...), in [0, 1]: a network that standardises does so in its first layer.
    y : torch.Tensor
        Their labels, (B,) int64.
    noise : torch.Tensor
        k draws of noise for each image, (k, B, ...).
    lam : float
        The weight of the regulariser, at least 0; 0 is SmoothAdv's objective.
    eps : float
        The radius of the ball, at least 0.
    steps : int
        The number of steps, at least 0; with 0 the answer is `x` itself.

    Returns
    -------
    torch.Tensor
        The adversarial images, shaped like `x`, without a gradient. An image whose gradient is 0
        or not finite stays where it is.
    """
    lam, eps = check_non_negative("lam", lam), check_non_negative("eps", eps)
    steps = check_whole("steps", steps, minimum=0)
    if noise.ndim != x.ndim + 1 or len(noise) < 1 or noise.shape[1:] != x.shape:
        raise ValueError(
            f"`noise` must be (k, B, ...) with k at least 1 and x's shape {tuple(x.shape)} "
            f"behind k, got {tuple(noise.shape)}."
        )
    low, high = (float(bound) for bound in x.detach().aminmax())
    if not (low >= 0 and high <= 1):
        bad = high if high > 1 else low
        raise ValueError(
            f"`x` must be in [0, 1], got {bad:g}: standardise in the network's first layer, not "
            "before the attack."
        )
    adversary = x.detach()
    with _frozen(model), torch.enable_grad():
        for _ in range(steps):
            adversary = adversary.detach().requires_grad_()
            logits = noisy_logits(model, adversary, noise)
            check_batch(logits, y)
            log_mean = log_g(logits)
            # The sum over images leaves each its own gradient.
            gain = lam * runner_up(log_mean, y) - log_mean.gather(1, y[:, None]).squeeze(1)
            (gradient,) = torch.autograd.grad(gain.sum(), adversary)
            step = 2 * eps / steps * _unit(gradient)
            adversary = _project((adversary.detach() + step).clamp(0, 1), x, eps)
    return adversary.detach()


def smooth_adv(
    model: nn.Module, x: Tensor, y: Tensor, noise: Tensor, *, eps: float, steps: int
) -> Tensor:
    """Images within `eps` of `x` that raise CE(G(x'), y): SmoothAdv's adversary (Salman et al.,
    NeurIPS 2019), which is `pgd` at lam = 0. Train on them with ``adre_risk(..., lam=0)``.
    """
    return pgd(model, x, y, noise, lam=0.0, eps=eps, steps=steps)


def noisy_logits(model: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
    """Return the logits of ``x + noise[j]`` for every j, (k, B, C), in one pass of the model."""
    logits: Tensor = model((x + noise).flatten(0, 1))
    return logits.reshape(*noise.shape[:2], *logits.shape[1:])


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Hold every module in eval mode and every parameter without gradient."""
    training = [module for module in model.modules() if module.training]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval().requires_grad_(False)
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in trainable:
            parameter.requires_grad_(True)


def _unit(gradient: Tensor) -> Tensor:
    norm = _norm(gradient)
    return torch.where((norm > 0) & norm.isfinite(), gradient / norm, 0.0)


def _project(adversary: Tensor, x: Tensor, eps: float) -> Tensor:
    # x and the clamped images lie in [0, 1], hence all between them does too.
    change = adversary - x
    return x + change * (eps / _norm(change).clamp(min=1e-12)).clamp(max=1.0)


def _norm(images: Tensor) -> Tensor:
    """Return each image's l2 norm, shaped to broadcast against the images."""
    lengths = torch.linalg.vector_norm(images.flatten(1), dim=1)
    norms: Tensor = lengths.reshape(-1, *[1] * (images.ndim - 1))
    return norms
