import pytest
import torch
from torch import nn

from adre_train import adre_risk, pgd, radius_risk, signed_radius_risk, stability
from adre_train.attack import noisy_logits
from adre_train.objective import risk
from adre_train.recipe import Recipe
from tcertify.data import digits


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
    torch.manual_seed(5)
    found, logits = risk(model, model, x, y, recipe, epoch=0)
    assert logits.shape == (2, 8, 10)
    torch.manual_seed(5)
    noise = recipe.sigma * torch.randn(recipe.k, *x.shape)
    torch.testing.assert_close(found, expected(model, x, y, noise))
