"""What tells one data set from any other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from tcertify._hashing import add_tensor


def data_fingerprint(dataset: Any, indices: Iterable[int]) -> str:
    """Return what ``dataset.fingerprint()`` says, else the SHA-256 of the images at `indices`.

    A data set with ``fingerprint_of(indices)`` is asked for that: all of it may take hours.
    """
    if hasattr(dataset, "fingerprint_of"):
        return str(dataset.fingerprint_of(indices))
    if hasattr(dataset, "fingerprint"):
        return str(dataset.fingerprint())
    return hash_images(dataset, indices)


def hash_images(dataset: Any, indices: Iterable[int]) -> str:
    """Return the SHA-256 of the images and labels at `indices`."""
    import torch

    digest = hashlib.sha256()
    for index in indices:
        try:
            image, label = dataset[index]
        except Exception as error:  # an image that fails now is told apart by how
            digest.update(f"{index} {type(error).__name__} ".encode())
            continue
        add_tensor(digest, f"{index} {label}", torch.as_tensor(image))
    return digest.hexdigest()
