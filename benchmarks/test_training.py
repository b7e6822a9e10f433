"""The cost of a training step on CIFAR-shaped random data: ResNet-110 on a GPU, ResNet-20 without.

``make bench`` times it; images/s are ``images / mean`` of a benchmark's record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from adre_train import adre_risk
from adre_train.attack import noisy_logits
from adre_train.objective import draw, risk
from adre_train.recipe import Recipe
from tcertify.classifiers.networks import build

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
ARCHITECTURE, IMAGES = ("cifar-resnet110", 400) if CUDA else ("cifar-resnet20", 4)
BASIC = Recipe(sigma=0.5, k=1, lam=0.0)


@pytest.fixture(scope="module")
def batch():
    torch.manual_seed(0)
    return torch.rand(IMAGES, 3, 32, 32, device=DEVICE), torch.arange(IMAGES, device=DEVICE) % 10


def timed(benchmark, function: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Time `function` to its end on the device, and return what it gave."""

    def whole() -> torch.Tensor:
        result = function()
        if CUDA:
            torch.cuda.synchronize()
        return result

    benchmark.extra_info.update(
        device=torch.cuda.get_device_name() if CUDA else "cpu",
        architecture=ARCHITECTURE,
        images=IMAGES,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )
    return benchmark.pedantic(whole, rounds=20, warmup_rounds=3)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"k": 8},
        {"k": 8, "lam": 0.1},
        {"k": 8, "lam": 0.1, "eps": 0.25, "steps": 2},
    ],
    ids=["basic-k1", "basic-k8", "adre-k8", "adre-adv-k8"],
)
def test_a_step_leaves_finite_gradients_everywhere(benchmark, batch, change, bf16):
    recipe = dataclasses.replace(BASIC, **change)
    network = build(ARCHITECTURE, 10).to(DEVICE)

    def step() -> torch.Tensor:
        network.zero_grad()
        noise = draw(batch[0], batch[1], recipe, epoch=0)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=bf16):
            loss, _ = risk(network, network, *batch, noise, recipe, epoch=0)
        loss.backward()
        return loss.detach()

    assert timed(benchmark, step).isfinite()
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters())


@pytest.mark.parametrize("lam", [0.0, 0.1], ids=["basic", "adre"])
def test_the_forward_pass_of_eight_copies_gives_the_risk(benchmark, batch, lam):
    images, labels = batch
    network = build(ARCHITECTURE, 10).to(DEVICE)
    noise = 0.5 * torch.randn(8, *images.shape, device=DEVICE)
    found = timed(
        benchmark, lambda: adre_risk(noisy_logits(network, images, noise), labels, lam=lam)
    )
    logits = noisy_logits(network, images, noise).double()
    assert torch.allclose(adre_risk(logits, labels, lam=lam).float(), found, rtol=1e-4)


@pytest.mark.parametrize("lam", [0.0, 0.1], ids=["basic", "adre"])
def test_the_risk_of_given_logits_is_that_in_float64(benchmark, lam):
    torch.manual_seed(0)
    logits = torch.randn(8, IMAGES, 10, device=DEVICE, requires_grad=True)
    labels = torch.arange(IMAGES, device=DEVICE) % 10
    found = timed(benchmark, lambda: adre_risk(logits, labels, lam=lam))
    assert torch.allclose(adre_risk(logits.double(), labels, lam=lam).float(), found, rtol=1e-5)


@pytest.mark.parametrize("copies", [1, 8])
@pytest.mark.parametrize("shape", [(400, 3, 32, 32), (128, 1, 28, 28), (64, 1, 8, 8)], ids=str)
@pytest.mark.parametrize("fused", [False, True], ids=["torch", "fused"])
def test_noise_has_the_standard_deviation_asked_for(benchmark, fused, shape, copies):
    """The noise that training draws, against torch's generator."""
    x, ids = torch.rand(shape, device=DEVICE), torch.arange(shape[0], device=DEVICE)
    recipe = Recipe(sigma=0.5, k=copies)

    def by_torch() -> torch.Tensor:
        return 0.5 * torch.randn(copies, *x.shape, device=DEVICE)

    noise = timed(benchmark, (lambda: draw(x, ids, recipe, 0)) if fused else by_torch)
    assert noise.std().item() == pytest.approx(0.5, rel=0.03)
