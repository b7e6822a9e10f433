import math

import numpy as np
import pytest
import torch
from torch import nn

from adre_train import pgd, smooth_adv
from adre_train.attack import noisy_logits


class Linear(nn.Module):
    """Logits W x + b of flattened images, so that the attack can be written down by hand."""

    def __init__(self, classes=4, pixels=4):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(classes, pixels, generator=generator).double())

    def forward(self, images):
        return images.flatten(1) @ self.weight.T


@pytest.fixture
def attack():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(5, 1, 2, 2, generator=generator).double()
    noise = 0.5 * torch.randn(3, 5, 1, 2, 2, generator=generator).double()
    return {"x": x, "y": torch.tensor([0, 1, 2, 3, 0]), "noise": noise}


def transcribed(weight, x, y, noise, lam, eps, steps):
    """Equations 12 and 13 for one image and linear logits, with the gradient by hand."""
    adversary = x.copy()
    for _ in range(steps):
        z = (adversary + noise) @ weight.T
        f = np.exp(z - z.max(-1, keepdims=True))
        f /= f.sum(-1, keepdims=True)
        g = f.mean(0)
        rival = max((c for c in range(len(g)) if c != y), key=lambda c: g[c])

        def gradient_of_log_g(c, f=f, g=g):
            slope = f[:, c, None] * (weight[c] - f @ weight)
            return slope.mean(0) / g[c]

        gradient = -gradient_of_log_g(y) + lam * gradient_of_log_g(rival)
        adversary = adversary + 2 * eps / steps * gradient / np.linalg.norm(gradient)
        change = adversary.clip(0, 1) - x
        length = np.linalg.norm(change)
        adversary = x + change * min(1, eps / length)
    return adversary


@pytest.mark.parametrize("lam", [0.0, 0.3])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("eps", [0.1, 1.0])
def test_the_attack_is_the_paper_s_equations_transcribed(attack, lam, steps, eps):
    model = Linear()
    adversary = pgd(model, **attack, lam=lam, eps=eps, steps=steps)
    for i in range(5):
        expected = transcribed(
            model.weight.detach().numpy(),
            attack["x"][i].flatten().numpy(),
            int(attack["y"][i]),
            attack["noise"][:, i].flatten(1).numpy(),
            lam,
            eps,
            steps,
        )
        np.testing.assert_allclose(adversary[i].flatten().numpy(), expected, atol=1e-12)


def test_the_adversary_stays_in_the_ball_and_in_the_unit_box(attack):
    adversary = pgd(Linear(), **attack, lam=0.1, eps=0.7, steps=4)
    change = (adversary - attack["x"]).flatten(1).norm(dim=1)
    assert (change <= 0.7 + 1e-12).all()
    assert change.max() > 0.5
    assert adversary.min() >= 0
    assert adversary.max() <= 1


def test_the_attack_raises_the_loss_of_the_smoothed_classifier(attack):
    model = Linear()
    adversary = smooth_adv(model, **attack, eps=0.2, steps=3)

    def at_label(images):
        g = noisy_logits(model, images, attack["noise"]).softmax(-1).mean(0)
        return g.gather(1, attack["y"][:, None])

    assert (at_label(adversary) < at_label(attack["x"])).all()


def test_smooth_adv_is_the_attack_without_regulariser(attack):
    model = Linear()
    adversary = smooth_adv(model, **attack, eps=0.3, steps=2)
    assert torch.equal(adversary, pgd(model, **attack, lam=0.0, eps=0.3, steps=2))


@pytest.mark.parametrize(("eps", "steps"), [(0.3, 0), (0.0, 2)])
def test_without_steps_or_radius_the_images_come_back(attack, eps, steps):
    adversary = pgd(Linear(), **attack, lam=0.1, eps=eps, steps=steps)
    assert torch.equal(adversary, attack["x"])


def test_an_image_without_a_gradient_stays_where_it_is(attack):
    model = Linear()
    nn.init.zeros_(model.weight)
    assert torch.equal(pgd(model, **attack, lam=0.1, eps=0.3, steps=2), attack["x"])


class Moody(nn.Module):
    """A network whose answers, and whose state, depend on its mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.body = Linear().float()
        self.body.weight.requires_grad_(False)
        self.norm.eval()
        self.modes = []

    def forward(self, images):
        self.modes.append((self.training, self.norm.weight.requires_grad))
        if len(self.modes) == 3:
            raise RuntimeError("out of memory")
        return self.body(self.norm(images))


@pytest.mark.parametrize("steps", [2, 3])
def test_mode_and_parameters_are_frozen_during_the_attack_and_restored_after_it(attack, steps):
    model = Moody()
    attack = {name: value.float() if name != "y" else value for name, value in attack.items()}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if steps == 3:
        with pytest.raises(RuntimeError, match="out of memory"):
            pgd(model, **attack, lam=0.1, eps=0.3, steps=steps)
    else:
        adversary = pgd(model, **attack, lam=0.1, eps=0.3, steps=steps)
        assert not adversary.requires_grad
    assert model.modes == [(False, False)] * steps
    assert model.training
    assert not model.norm.training
    assert model.norm.weight.requires_grad
    assert not model.body.weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -1.0}, r"`lam` must be at least 0 and finite, got -1\.0\."),
        ({"eps": -0.1}, r"`eps` must be at least 0 and finite, got -0\.1\."),
        ({"eps": math.nan}, r"`eps` must be at least 0 and finite, got nan\."),
        ({"steps": -1}, r"`steps` must be at least 0, got -1\."),
        ({"steps": 1.5}, r"`steps` must be a whole number, got 1\.5\."),
        ({"noise": torch.zeros(0, 5, 1, 2, 2)}, r"`noise` .* got \(0, 5, 1, 2, 2\)\."),
        ({"noise": torch.zeros(5, 1, 2, 2)}, r"`noise` must be \(k, B, \.\.\.\) .* got \(5, 1"),
        ({"noise": torch.zeros(3, 4, 1, 2, 2)}, r"x's shape \(5, 1, 2, 2\) .* got \(3, 4,"),
        (
            {"x": torch.full((5, 1, 2, 2), 1.5)},
            r"`x` must be in \[0, 1\], got 1\.5: standardise in",
        ),
        ({"x": torch.full((5, 1, 2, 2), -0.25)}, r"`x` must be in \[0, 1\], got -0\.25: "),
        ({"x": torch.full((5, 1, 2, 2), torch.nan)}, r"`x` must be in \[0, 1\], got nan: "),
        ({"y": torch.tensor([0, 1, 2, 4, 0])}, r"`y` must be in \[0, 4\), got 4\."),
    ],
)
def test_a_bad_argument_is_named(attack, options, message):
    with pytest.raises(ValueError, match=message):
        pgd(Linear(), **{**attack, "lam": 0.1, "eps": 0.3, "steps": 2, **options})


def test_smooth_adv_refuses_images_outside_the_box_as_well(attack):
    with pytest.raises(ValueError, match=r"`x` must be in \[0, 1\]"):
        smooth_adv(Linear(), **{**attack, "x": attack["x"] + 1}, eps=0.3, steps=2)
