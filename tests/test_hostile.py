"""Classifiers built to be certified wrongly: by the low bits of floats, by a tail that is cut."""

import pytest
import torch
from torch import nn

from tcertify import SmoothedClassifier
from tcertify.classifiers import Classifier
from tcertify.sampling import ESTIMATION, GaussianNoise, Sampler

SIGMA, LEVELS = 0.5, 16
#: A black image of 20 x 20, and the same one level brighter: at distance 20 / 16.
BLACK = torch.zeros(1, 20, 20)
BRIGHTER = BLACK + 1 / LEVELS


class LowBits(nn.Module):
    """Answers 0 where a pixel near 0 has a bit below 2^-28 set.

    Noise that is added to 0 keeps all bits of a small float. Near 0, the sum of 1 / 16 and the
    noise that cancels it has none: the float sum tells x, of which a Gaussian would tell nothing.
    """

    def forward(self, batch):
        pixels = batch.flatten(1).double()
        fine = (pixels.abs() < 2**-5) & (pixels * 2**28 % 1 != 0)
        found = fine.any(1).float()
        return torch.stack([found, 1 - found], 1)


def certified(image, noise):
    smoothed = SmoothedClassifier(LowBits().eval(), 2, SIGMA, noise=noise, levels=LEVELS_OF[noise])
    return smoothed.certify(image, 100, 2000)


LEVELS_OF = {"gaussian": None, "integer": LEVELS}


def test_low_bits_are_certified_wrongly_under_float_noise():
    """What this test finds is the gap that integer noise closes."""
    black, brighter = certified(BLACK, "gaussian"), certified(BRIGHTER, "gaussian")
    distance = float((BRIGHTER - BLACK).norm())
    assert (black.predicted, brighter.predicted) == (0, 1)
    assert black.radius > distance
    assert (black.noise, black.squared_levels) == ("gaussian", None)


def test_low_bits_tell_nothing_under_integer_noise():
    black, brighter = certified(BLACK, "integer"), certified(BRIGHTER, "integer")
    assert (black.predicted, brighter.predicted) == (1, 1)
    assert black.squared_levels >= 400  # BRIGHTER, by 400 pixels of one level
    assert (black.noise, black.levels, black.n_tau) == ("integer", LEVELS, None)


def test_under_integer_noise_an_image_and_its_neighbour_draw_the_same_differences():
    """So f reads x + round(N) and nothing else of x."""
    batches = []

    def recorder(batch):
        batches.append(batch * LEVELS)
        return batch.flatten(1)[:, :2]

    smoothed = SmoothedClassifier(recorder, 2, SIGMA, noise="integer", levels=LEVELS)
    with pytest.warns(UserWarning, match="changes attributes"):
        smoothed.certify(BLACK, 10, 50, image_id=0)
    smoothed.certify(BRIGHTER, 10, 50, image_id=0)
    black, brighter = torch.cat(batches[-4:-2]), torch.cat(batches[-2:])
    assert torch.equal(black, black.round())
    inside = (black.abs() < 60) & (brighter.abs() < 60)  # beyond, the sum is clamped
    assert torch.equal((black + 1)[inside], brighter[inside])


class Tail(nn.Module):
    """Answers 1 where a pair of normals is longer than the longest that 32 bits make."""

    def forward(self, batch):
        longest = batch.flatten(1).unflatten(1, (-1, 2)).norm(dim=2).amax(1)
        found = (longest > 6.7638).float()
        return torch.stack([1 - found, found], 1)


def test_a_classifier_that_waits_for_the_tail_meets_it():
    """A radius of 32 bits ends at 6.7637057. This sample is the first of its stream whose pair is
    longer; one search through 5.7 billion samples found it.
    """
    sampler = Sampler(Classifier(Tail().eval(), 2), GaussianNoise(1.0))
    far = 5_742_888_628
    votes = sampler.count(torch.zeros(1, 1, 2, 2), [0], far - 500, far + 500, ESTIMATION)
    assert votes.tolist() == [[999, 1, 0]]
