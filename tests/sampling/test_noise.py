"""GaussianNoise: a value; the noise it adds is that of the kernels."""

import pytest
import torch

from tcertify.sampling import SELECTION, GaussianNoise
from tcertify_kernels import add_noise


def test_it_adds_the_noise_of_the_kernels():
    images = torch.rand(2, 3, 4, 4)
    slot = torch.tensor([1, 0, 1], dtype=torch.int32)
    where = images, slot, torch.tensor([7, 8, 9]), torch.tensor([0, 5, 2**40])
    out = GaussianNoise(0.5, 3).add(torch.empty(3, 3, 4, 4), *where, stream=SELECTION)
    expected = add_noise(torch.empty(3, 3, 4, 4), *where, sigma=0.5, seed=3, stream=SELECTION)
    assert torch.equal(out, expected)


def test_it_is_a_value():
    assert GaussianNoise(1, 2) == GaussianNoise(1.0, 2)
    assert len({GaussianNoise(1), GaussianNoise(1.0), GaussianNoise(2)}) == 2
    assert (GaussianNoise(1).kind, GaussianNoise(1).levels) == ("gaussian", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), "`sigma` must be positive and finite, got 0.0"),
        ((float("nan"),), "`sigma` must be positive and finite, got nan"),
        (("1",), "`sigma` must be a number, got '1'"),
        ((1.0, -1), "`seed` must be at least 0, got -1"),
        ((1.0, 2**64), "`seed` must be at most"),
    ],
)
def test_bad_values_get_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianNoise(*arguments)
