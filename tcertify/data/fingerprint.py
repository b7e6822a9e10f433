"""What tells one data set from any other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from tcertify._hashing import add_tensor


def data_fingerprint(dataset: Any, indices: Iterable[int]) -> str:
    """Return what ``dataset.fingerprint()`` says, else the SHA-256 of the images at `indices`."""
    import torch

    if hasattr(dataset, "fingerprint"):
        return str(dataset.fingerprint())
    digest = hashlib.sha256()
    for index in indices:
        try:
            image, label = dataset[index]
        except Exception as error:  # an image that fails now is told apart by how
            digest.update(f"{index} {type(error).__name__} ".encode())
            continue
        add_tensor(digest, f"{index} {label}", torch.as_tensor(image))
    return digest.hexdigest()
