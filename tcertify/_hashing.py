"""What both kinds of fingerprints, of classifiers and of data, are made with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def add_tensor(digest: Any, name: str, tensor: torch.Tensor) -> None:
    """Add the name, shape, dtype and bytes of a tensor to a digest of hashlib."""
    import torch

    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
    dense = tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()
    digest.update(dense.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
