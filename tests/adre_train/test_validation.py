import dataclasses

import pytest
import torch
from torch import nn

from adre_train.recipe import Recipe
from adre_train.validation import certified
from tcertify.data import digits
from tcertify.sampling import ESTIMATION, PREDICTION, SELECTION, VALIDATION, Sampler

RECIPE = Recipe(sigma=0.3, validate_images=30)


def always(label):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.zeros_(network[1].weight)
    network[1].bias.data = torch.eye(10)[label]
    return network


def test_only_correct_images_count_and_only_held_out_ones_are_looked_at():
    data = digits.load("train")
    held = dataclasses.replace(data, labels=torch.full_like(data.labels, 3))
    held.labels[9::10] = torch.arange(len(held.labels[9::10])) % 2  # the held-out images
    found = certified(always(1), held, RECIPE, "cpu")
    assert 0.2 < found["certified_accuracy"] < 0.8
    share = found["certified_accuracy"]
    assert found["average_radius"] == pytest.approx(share * 0.3 * 2.2, rel=0.02)
    assert certified(always(3), held, RECIPE, "cpu")["certified_accuracy"] == 0


def test_the_noise_of_validation_is_none_that_certifies(monkeypatch):
    streams, ranges = [], []
    count = Sampler.count

    def watched(self, images, ids, start, stop, stream):
        streams.append(stream)
        ranges.append((start, stop))
        return count(self, images, ids, start, stop, stream)

    monkeypatch.setattr(Sampler, "count", watched)
    certified(always(1), digits.load("train"), RECIPE, "cpu")
    assert streams == [VALIDATION, VALIDATION]
    assert ranges == [(0, 100), (100, 600)]  # no vote both chooses and certifies
    assert VALIDATION not in {SELECTION, ESTIMATION, PREDICTION}


def test_a_data_set_too_small_to_hold_out_a_tenth_is_refused():
    data = digits.load("train")
    few = dataclasses.replace(data, images=data.images[:9], labels=data.labels[:9])
    with pytest.raises(ValueError, match="digits/train is too small to hold out a tenth"):
        certified(always(1), few, RECIPE, "cpu")
