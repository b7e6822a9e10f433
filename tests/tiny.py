"""A data set and classifiers so small that whole runs take milliseconds."""

import os
import signal
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from tcertify.data.dataset import TensorDataset

CLASSES = 3


def images(count=12):
    """Images (1, 2, 2), every third of one class, most of them easy."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % CLASSES
    pixels = torch.rand(count, 1, 2, 2, generator=generator) * 0.4
    pixels.view(count, 4)[torch.arange(count), labels] += 0.6
    return TensorDataset("tiny/test", CLASSES, pixels, labels)


def grey_images(count=12):
    """The same, of 8 bits."""
    found = images(count)
    return replace(found, images=(found.images * 255).round().to(torch.uint8))


class Network(nn.Module):
    """The class of the largest of the first three pixels."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, CLASSES)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.eval()

    def forward(self, batch):
        return self.linear(batch.flatten(1))


class SlowNetwork(Network):
    """Takes long enough to be interrupted."""

    def forward(self, batch):
        time.sleep(0.005)
        return super().forward(batch)


def certify(path, model=None, data=None, **options):
    """A run of a fraction of a second."""
    from tcertify.runs import certify_dataset

    arguments = {"sigma": 0.5, "n0": 20, "n": 500, "method": "certify"} | options
    return certify_dataset(
        Network() if model is None else model,
        images() if data is None else data,
        out=path,
        **arguments,
    )


def certify_until_cut(path, **options):
    """A run that an exception ends where three images are done."""

    class Cut(Exception):
        pass

    def stop(done, planned):
        if done >= 3:
            raise Cut

    with pytest.raises(Cut):
        certify(path, **options, batch_size=64, on_progress=stop)
    assert 0 < len(rows_of(path)) < len(images())


def rows_of(path):
    """Every row of a sound run file by its image, without its time."""
    from tcertify.runs.file import RunFile

    with RunFile(path) as run:
        rows = {row.image_id: replace(row, seconds=0.0) for row in run.rows()}
        assert run.structure() == run.damage == []
    return rows


def certify_slowly(path):
    """A run of 60 images that takes about a second; a target for signals."""
    from tcertify.runs import certify_dataset

    # A suite that runs in the background of a script inherits an ignored SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    certify_dataset(
        SlowNetwork(),
        images(60),
        sigma=0.5,
        out=path,
        n0=20,
        n=200,
        method="certify",
        batch_size=64,
        resume=True,
        on_progress=lambda done, planned: os.sched_yield(),
    )


def signed(sign=1):
    """The network, or what takes the smallest pixel."""
    network = Network()
    with torch.no_grad():
        network.linear.weight *= sign
    return network


def pairs():
    """Images that do not say how many classes there are."""
    return [images()[i] for i in range(12)]
