"""Fingerprints: what tells one model, or one data set, from any other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def model_fingerprint(classifier: Callable[[Any], Any]) -> str:
    """Return the SHA-256 of the names, shapes, dtypes and bytes of all parameters and buffers.

    A callable that is no torch module has no parameters to see; its name stands for it.
    """
    import torch

    digest = hashlib.sha256()
    if not isinstance(classifier, torch.nn.Module):
        name = getattr(classifier, "__qualname__", type(classifier).__qualname__)
        digest.update(f"{classifier.__module__}.{name}".encode())
        return digest.hexdigest()
    for name, tensor in (*classifier.named_parameters(), *classifier.named_buffers()):
        _add(digest, name, tensor)
    return digest.hexdigest()


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
        _add(digest, f"{index} {label}", torch.as_tensor(image))
    return digest.hexdigest()


def _add(digest: Any, name: str, tensor: torch.Tensor) -> None:
    import torch

    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().data)
