"""A quick certification of held-out training images: no test image, and none of the noise that
certifies.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from adre_train.batches import held_out
from adre_train.recipe import Recipe
from tcertify.certificates import certify_counts
from tcertify.classifiers import Classifier
from tcertify.data import Dataset
from tcertify.sampling import VALIDATION, GaussianNoise, Sampler

N0 = 100


def certified(
    network: nn.Module, data: Dataset, recipe: Recipe, device: torch.device | str
) -> dict[str, float]:
    """Return the certified accuracy at radius 0 and the average certified radius, by CERTIFY at
    alpha = 0.001, of images spread evenly over the validation split of the training images `data`.

    Its noise is a stream of its own: choosing between checkpoints by these votes tells nothing of
    the votes that certify later.
    """
    held = held_out(len(data))
    if not len(held):
        raise ValueError(f"{data.name} is too small to hold out a tenth for validation.")
    count = min(recipe.validate_images, len(held))
    ids = held[np.linspace(0, len(held) - 1, count).round().astype(np.int64)]
    images, labels = zip(*(data[int(i)] for i in ids), strict=True)
    x = torch.stack(images).to(device)
    classifier = Classifier(network, data.num_classes)
    sampler = Sampler(classifier, GaussianNoise(recipe.sigma, recipe.seed))
    top = sampler.count(x, ids, 0, N0, VALIDATION)[:, :-1].argmax(1)
    votes = sampler.count(x, ids, N0, N0 + recipe.validate_samples, VALIDATION)
    result = certify_counts(
        votes[:, :-1], top, sigma=recipe.sigma, method="certify", invalid=votes[:, -1]
    )
    correct = result.predicted == np.array(labels)
    return {
        "certified_accuracy": float(correct.mean()),
        "average_radius": float((result.radius * correct).mean()),
    }
