"""What a data set is: numbered images in [0, 1] with their labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

SPLITS = ("train", "test")


class Dataset(Protocol):
    """Numbered images with labels; ``data[i]`` is ``(image, label)``.

    An image is a float32 tensor (C, H, W) in [0, 1], a label an int in [0, num_classes).
    """

    @property
    def name(self) -> str:
        """The data set and its split, such as ``"digits/test"``."""

    @property
    def num_classes(self) -> int:
        """The number of classes, those without an image in this split included."""

    @property
    def levels(self) -> int | None:
        """Grey levels above 0 where every pixel is one of k / levels, else None."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...

    def fingerprint(self) -> str:
        """Return the SHA-256 that tells this data from any other, in hexadecimal."""


@dataclass(frozen=True, eq=False)
class TensorDataset:
    """A `Dataset` held in memory.

    Parameters
    ----------
    name : str
    num_classes : int
    images : tensor (N, C, H, W)
        float32 in [0, 1], or uint8, of which 255 stands for 1.
    labels : int64 tensor (N,)
    grey_levels : int, optional
        Where `images` are floats that are all k / grey_levels, that number.
    notes : tuple of str
        What a user should know of how the images were read; stored with every run.
    """

    name: str
    num_classes: int
    images: Tensor
    labels: Tensor
    grey_levels: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def levels(self) -> int | None:
        """Grey levels above 0 where every pixel is one of k / levels, else None."""
        return 255 if self.images.dtype == torch.uint8 else self.grey_levels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        if image.dtype == torch.uint8:
            image = image.float() / 255
        return image, int(self.labels[index])

    def fingerprint(self) -> str:
        """Return the SHA-256 of the name, the shapes, the pixels and the labels."""
        digest = hashlib.sha256(f"{self.name} {self.num_classes}".encode())
        for tensor in (self.images, self.labels):
            digest.update(f" {tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


def check_split(split: str) -> str:
    """Return `split`, one of "train" and "test"."""
    if split not in SPLITS:
        raise ValueError(f"`split` must be 'train' or 'test', got {split!r}.")
    return split
