"""Imported by the fork server: loads what a run needs, so that its forks start at once."""

import torch

import tcertify.statistics.planning  # noqa: F401
from tcertify.classifiers import Classifier
from tcertify.sampling import ESTIMATION, GaussianNoise, Sampler
from tests.tiny import CLASSES, Network, images

torch.set_num_threads(1)  # a fork must not inherit half a thread pool
sampler = Sampler(Classifier(Network(), CLASSES), GaussianNoise(0.5))
sampler.count(images(1).images, [0], 0, 10, ESTIMATION)
