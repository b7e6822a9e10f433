"""The loops that the documentation shows, run as they stand there."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tcertify.classifiers import Standardise
from tcertify.data import TensorDataset, digits

PAGES = ["docs/training.md", "README.md"]
ROOT = Path(__file__).parents[2]
MEAN, STD = 0.3, 0.4


def snippet(page):
    """Return the page's block of code that trains."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    (found,) = [block for block in blocks if "in loader:" in block]
    return found


def surroundings(*, normalised_by_the_loader):
    """What a training script of the field has around its loop."""
    torch.manual_seed(0)
    body = [nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)]
    data = digits.load("train")
    if normalised_by_the_loader:
        images = (data.images - MEAN) / STD
        data = TensorDataset(data.name, 10, images, data.labels)
    else:
        body.insert(0, Standardise([MEAN], [STD]))
    network = nn.Sequential(*body)
    return {
        "torch": torch,
        "network": network,
        "optimizer": torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
        "loader": DataLoader(data, batch_size=64, shuffle=True),
        "sigma": 0.25,
        "k": 4,
    }


def noisy_accuracy(network):
    test = digits.load("test")
    with torch.no_grad():
        noisy = test.images + 0.25 * torch.randn(test.images.shape)
        return float((network(noisy).argmax(1) == test.labels).float().mean())


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("attack", [True, False], ids=["ADRE_ADV", "ADRE_REG"])
def test_the_loop_trains_as_it_stands(page, attack):
    code = snippet(page)
    if not attack:
        code = "\n".join(line for line in code.splitlines() if "pgd(" not in line)
    around = surroundings(normalised_by_the_loader=False)
    for _ in range(4):
        exec(code, around)
    assert noisy_accuracy(around["network"].eval()) > 0.85


@pytest.mark.parametrize("page", PAGES)
def test_a_loader_that_normalises_is_refused_with_what_to_do(page):
    around = surroundings(normalised_by_the_loader=True)
    with pytest.raises(ValueError, match=r"`x` must be in \[0, 1\].*network's first layer"):
        exec(snippet(page), around)


@pytest.mark.parametrize("page", PAGES)
def test_the_snippet_draws_its_noise_where_the_images_are(page):
    assert "device=x.device" in snippet(page)
    assert len(snippet(page).split("for x, y in loader:")[1].strip().splitlines()) <= 8
