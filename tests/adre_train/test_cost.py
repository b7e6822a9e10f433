import pytest
import torch
from torch import nn

from adre_train import cost
from adre_train.recipe import Recipe


class Noted(nn.Module):
    """A network of one layer that notes what it is given, once through its first layer."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = nn.Linear(16, 10), []

    def forward(self, images):
        logits = self.layer(images.flatten(1))
        self.seen.append((len(images), logits.dtype))
        return logits


@pytest.mark.parametrize(("bf16", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_the_recipe_s_own_precision_and_batch_are_timed_three_times(monkeypatch, bf16, dtype):
    monkeypatch.setattr(cost, "CPU_SECONDS", 1e6)
    network = Noted()
    recipe = Recipe(k=4, batch=60, accumulate=2, epochs=5, warmup=1, bf16=bf16)
    found = cost.estimate(recipe, network, 600, (1, 4, 4))
    assert network.seen[1:] == [(4 * 30, dtype)] * (1 + 3)
    assert found.images == 30
    assert (found.parameters, found.steps) == (170, 50)
    # Forward and the weights' gradient: two products of 16 x 10 for each of four copies.
    assert found.flop == 600 * 5 * 4 * 2 * (2 * 16 * 10)
    assert 0 < found.seconds[0] <= found.seconds[1] <= found.seconds[2]


def test_on_a_cpu_a_large_batch_is_timed_in_part(monkeypatch):
    monkeypatch.setattr(cost, "CPU_SECONDS", 1e-9)
    found = cost.estimate(Recipe(batch=64), Noted(), 600, (1, 4, 4))
    assert found.images == 2
