import dataclasses

import pytest
import torch
from scipy import stats
from torch import nn

from adre_train import adre_risk, pgd, radius_risk, signed_radius_risk, stability
from adre_train.attack import noisy_logits
from adre_train.objective import draw, risk
from adre_train.recipe import Recipe
from tcertify.data import digits
from tcertify.sampling import (
    DRAWN,
    ESTIMATION,
    PREDICTION,
    SELECTION,
    TRAINING,
    VALIDATION,
    GaussianNoise,
)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, lambda m, x, y, d: adre_risk(noisy_logits(m, x, d), y, lam=0.1)),
        (
            {"per": "single", "label_smoothing": 0.1, "floor": 0.01},
            lambda m, x, y, d: adre_risk(
                noisy_logits(m, x, d), y, lam=0.1, per="single", label_smoothing=0.1, floor=0.01
            ),
        ),
        (
            {"risk": "radius"},
            lambda m, x, y, d: radius_risk(noisy_logits(m, x, d), y, lam=0.1, sigma=0.3),
        ),
        (
            {"risk": "signed-radius"},
            lambda m, x, y, d: signed_radius_risk(noisy_logits(m, x, d), y, lam=0.1, sigma=0.3),
        ),
        (
            {"risk": "stability"},
            lambda m, x, y, d: stability(m(x), noisy_logits(m, x, d), y, lam=0.1),
        ),
        (
            {"eps": 0.2, "steps": 2, "eps_warmup": 2},
            lambda m, x, y, d: adre_risk(
                noisy_logits(m, pgd(m, x, y, d, lam=0.1, eps=0.1, steps=2), d), y, lam=0.1
            ),
        ),
    ],
)
def test_every_recipe_s_risk_is_the_function_of_that_name(settings, expected):
    recipe = Recipe(sigma=0.3, k=2, lam=0.1, **settings)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    data = digits.load("train")
    x, y = data.images[:8], data.labels[:8]
    noise = draw(x, torch.arange(8), recipe, epoch=0)
    found, logits = risk(model, model, x, y, noise, recipe, epoch=0)
    assert logits.shape == (2, 8, 10)
    torch.testing.assert_close(found, expected(model, x, y, noise))


def test_an_image_s_noise_depends_on_seed_image_epoch_and_copy_alone():
    recipe = Recipe(sigma=0.3, k=3, seed=5)
    x, ids = torch.rand(4, 2, 3, 3), torch.tensor([7, 2, 9, 2])
    noise = draw(x, ids, recipe, epoch=1)
    assert noise.shape == (3, 4, 2, 3, 3)
    assert torch.equal(noise[:, 1], noise[:, 3])
    assert torch.equal(draw(x[:2], ids[:2].flip(0), recipe, epoch=1), noise[:, :2].flip(1))
    for other in (
        draw(x, ids, recipe, epoch=2),
        draw(x, ids, dataclasses.replace(recipe, seed=6), epoch=1),
        draw(x, ids + 20, recipe, epoch=1),
        noise.roll(1, 0),
    ):
        assert not torch.isclose(other, noise).any()


def test_training_noise_is_normal_and_none_that_certifies():
    recipe = Recipe(sigma=0.3, k=50)
    x, ids = torch.zeros(4, 1, 20, 20), torch.arange(4)
    noise = draw(x, ids, recipe, epoch=0)
    assert stats.kstest(noise.flatten().numpy() / 0.3, "norm").pvalue > 0.01
    gaussian, rows = GaussianNoise(0.3), torch.arange(4, dtype=torch.int32)
    for stream in (SELECTION, ESTIMATION, PREDICTION, VALIDATION, DRAWN):
        out, invalid = torch.empty_like(x), torch.zeros(4, dtype=torch.bool)
        gaussian.add(out, invalid, x, rows, ids, torch.zeros(4, dtype=torch.int64), stream=stream)
        assert not torch.isclose(out, noise[0]).any()
    assert TRAINING not in {SELECTION, ESTIMATION, PREDICTION, VALIDATION, DRAWN}


@pytest.mark.gpu
def test_a_gpu_draws_the_noise_of_a_cpu():
    recipe, ids = Recipe(k=2), torch.arange(5)
    x = torch.zeros(5, 3, 8, 8)
    on_gpu = draw(x.cuda(), ids.cuda(), recipe, epoch=3)
    assert torch.equal(on_gpu.cpu(), draw(x, ids, recipe, epoch=3))
