"""What Python programs call a data set, made one of ours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tcertify.data.arrays import from_arrays
from tcertify.data.dataset import Dataset
from tcertify.data.fingerprint import hash_images


def as_dataset(
    data: Any,
    *,
    name: str | None = None,
    num_classes: int | None = None,
    levels: int | None = None,
) -> Dataset:
    """Return `data` as a `Dataset`.

    Parameters
    ----------
    data : data set, sequence of (image, label), or pair (images, labels)
        A torch ``Dataset`` with a length, a list of pairs, or a tuple of two arrays or tensors
        as for `from_arrays`. Pictures of Pillow's become tensors.
    name : str, optional
        Stored with every run; without it, that of the type.
    num_classes : int, optional
        Without it, what ``data.num_classes`` or ``len(data.classes)`` says.
    levels : int, optional
        Grey levels above 0 where every pixel is one of k / levels.

    Raises
    ------
    TypeError
        A ``DataLoader`` or another iterable: an image must be found again by its number, since
        its noise is drawn from that, and a loader shuffles.
    ValueError
        As for `from_arrays`, or the number of classes is not to be known.
    """
    if isinstance(data, tuple) and len(data) == 2 and _is_array(data[0]):
        return from_arrays(*data, name=name or "arrays", num_classes=num_classes)
    if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        advice = "pass its `dataset`" if hasattr(data, "dataset") else "make it a list"
        raise TypeError(
            f"The data set must find an image by its number (len(data), data[i]), and"
            f" {type(data).__name__} does not: {advice}."
        )
    if all(hasattr(data, member) for member in ("name", "num_classes", "levels", "fingerprint")):
        return data  # type: ignore[no-any-return]
    classes = getattr(data, "num_classes", None) if num_classes is None else num_classes
    classes = classes or len(getattr(data, "classes", ())) or None
    if classes is None:
        raise ValueError("`num_classes` must be given: the data set does not say it.")
    known = getattr(data, "levels", None) if levels is None else levels
    return _Items(data, name or type(data).__name__, classes, known)


@dataclass(frozen=True, eq=False)
class _Items:
    """Any sequence of (image, label)."""

    data: Any
    name: str
    num_classes: int
    levels: int | None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.data[index]
        if type(image).__module__.startswith("PIL."):
            pixels = np.asarray(image)
            if pixels.dtype != np.uint8:
                raise ValueError(f"Image {index} has {pixels.dtype} pixels, not bytes.")
            channels = pixels[..., None] if pixels.ndim == 2 else pixels
            image = torch.from_numpy(channels.transpose(2, 0, 1).astype(np.float32)) / 255
        return image, label

    @property
    def notes(self) -> tuple[str, ...]:
        """What the data says of how its images were read."""
        return tuple(getattr(self.data, "notes", ()))

    def fingerprint(self) -> str:
        """Return what the data says, else the SHA-256 of every image and label."""
        return self.fingerprint_of(range(len(self)))

    def fingerprint_of(self, indices: Iterable[int]) -> str:
        """Return what the data says, else the SHA-256 of the images and labels at `indices`."""
        own = getattr(self.data, "fingerprint", None)
        return hash_images(self, indices) if own is None else str(own())


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, torch.Tensor))
