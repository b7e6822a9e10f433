"""The batch: how many rows suit a forward pass."""

import numpy as np
import pytest
import torch
from torch import nn

from tcertify.classifiers import Classifier, build
from tcertify.sampling.batch import _largest_activation, _send, suitable_rows


@pytest.mark.parametrize(
    ("name", "shape", "elements", "rows"),
    [
        ("digits", (1, 8, 8), 2 * 32 * 64, 512),
        ("cifar-resnet20", (3, 32, 32), 2 * 16 * 1024, 64),
        ("resnet50", (3, 32, 32), 2 * 256 * 64, 64),
        ("resnet50", (3, 224, 224), 2 * 256 * 56**2, 8),
    ],
)
def test_the_largest_activation_decides(name, shape, elements, rows):
    classifier, images = Classifier(build(name, 10), 10), torch.rand(1, *shape)
    assert _largest_activation(classifier, images) == elements
    assert suitable_rows(classifier, images, None) == rows
    assert suitable_rows(classifier, images, 100_000) == rows
    assert suitable_rows(classifier, images, 40) == min(rows, 40)


def test_parameters_and_what_is_made_of_them_are_no_activations():
    class Heavy(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 100_000))

        def forward(self, batch):
            return batch.flatten(1) @ (2 * self.weight)[:, :3]

    assert _largest_activation(Classifier(Heavy(), 3), torch.rand(1, 2, 2)) == 8


def test_operations_outside_of_modules_count():
    class Attention(nn.Module):
        def forward(self, batch):
            tokens = batch.flatten(1)[:, :, None]
            return (tokens @ tokens.mT).sum(2)[:, :3]

    assert _largest_activation(Classifier(Attention(), 3), torch.rand(1, 1, 100)) == 10_100


def test_a_plain_function_is_not_run_with_a_batch_of_one():
    def function(batch):
        raise AssertionError(len(batch))

    assert suitable_rows(Classifier(function, 3), torch.rand(1, 64, 64), None) == 256


def test_numbers_go_to_a_device_from_pinned_memory_without_a_wait(monkeypatch):
    sent = []

    class Device:
        is_cuda = True

        def copy_(self, host, non_blocking):
            sent.append((host, non_blocking))

    pinned = torch.tensor([[7]])
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned)
    _send(Device(), np.ones((1, 1), np.int64))
    assert sent == [(pinned, True)]
