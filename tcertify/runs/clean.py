"""Accuracy without noise, which shows a wrong standardisation before hours are spent on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import islice

import torch

from tcertify.classifiers import Classifier
from tcertify.data import Dataset
from tcertify.runs.images import Loaded, load_images

#: Images that are classified together.
_BATCH = 20


def count_correct(
    classifier: Classifier,
    dataset: Dataset,
    indices: Sequence[int],
    *,
    first: int = 100,
    allow: Iterable[str] = (),
) -> tuple[int, int]:
    """Return how many of the first images are classified right without noise, and how many
    were classified; images that cannot be loaded are left out.

    Parameters
    ----------
    classifier : Classifier
    dataset : Dataset
    indices : sequence of int
        Of these, the `first` are taken.
    first : int
    allow : iterable of str
        As in `certify_dataset`.

    Raises
    ------
    VoidCertificateError
        An image outside [0, 1], unless "range" is allowed.
    """
    right = seen = 0
    taken, classes = indices[:first], classifier.num_classes
    with closing(load_images(dataset, taken, classifier.device, classes, allow)) as images:
        whole = (image for image in images if image.error is None)
        while batch := [*islice(whole, _BATCH)]:
            right += _right(classifier, batch)
            seen += len(batch)
    return right, seen


def _right(classifier: Classifier, images: list[Loaded]) -> int:
    pixels = torch.stack([image.pixels for image in images])
    labels = torch.tensor([image.label for image in images])
    with classifier.running():
        logits = classifier.logits(classifier.empty(len(pixels), pixels).copy_(pixels))
    return int((logits.argmax(1).cpu() == labels).sum())
