"""Classifiers that are not what they should be."""

import torch
from torch import nn

from tests.tiny import Network


class FailsOn(Network):
    """Raises for the images whose first pixel is marked."""

    def __init__(self, marked, data):
        super().__init__()
        self.marked = {round(float(data.images[i].mean()), 3) for i in marked}

    def forward(self, batch):
        # noise is small in these tests, so the mean of a row tells its image
        for mean in batch.flatten(1).mean(1).tolist():
            if round(mean, 3) in self.marked:
                raise LookupError("no answer")
        return super().forward(batch)


class Dice(Network):
    def forward(self, batch):
        return nn.functional.dropout(super().forward(batch), 0.5, training=True)


class NeighbourNetwork(Network):
    def forward(self, batch):
        return super().forward(nn.functional.batch_norm(batch, None, None, training=True))


class Memory(Network):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, batch):
        self.calls += 1
        return super().forward(batch)


class Drawing(Network):
    def forward(self, batch):
        torch.rand(1)
        return super().forward(batch)


class Overwriting(Network):
    def forward(self, batch):
        return super().forward(batch.sub_(0.1))


class Dead(Network):
    def forward(self, batch):
        return super().forward(batch) * 0


class NeighbourLater(Network):
    """Looks at the other rows of its batch, but only after the calls of a first probe."""

    def __init__(self, innocent=12):
        super().__init__()
        self.left = innocent

    def forward(self, batch):
        self.left -= 1
        if self.left < 0:
            batch = nn.functional.batch_norm(batch, None, None, training=True)
        return super().forward(batch)
