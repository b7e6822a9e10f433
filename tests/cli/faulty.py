"""Base classifiers and data sets with a mistake in each, as users make them."""

import sys

import torch
from torch import nn

from tests.tiny import CLASSES, Network, images


class _Raises(nn.Module):
    """Raises in its forward pass."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, batch):
        raise self.error


def key_error():
    return _Raises(KeyError("logits"))


def assertion():
    return _Raises(AssertionError())


def memory():
    return _Raises(MemoryError())


def wants_three_channels():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, CLASSES))


def wants_larger_images():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))


def wrong_width():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES + 1))


def no_weights():
    return torch.load("missing.pth", weights_only=True)


def wants_arguments(depth):
    return Network()


def returns_nothing():
    return None


def ends_the_program():
    sys.exit("usage: train.py")


def rolls_dice():
    class Dice(Network):
        def forward(self, batch):
            return super().forward(batch) + torch.randn(len(batch), CLASSES)

    return Dice()


def no_data():
    return images(0)


def bytes_for_images():
    return torch.full((4, 1, 2, 2), 200.0), torch.zeros(4, dtype=torch.int64)


def not_text():
    raise OSError(2, "No such file or directory", "weights-\udcff.pth")
