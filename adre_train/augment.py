"""Random crops and flips, one image at a time, each a pure function of its generator."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from tcertify.data.dataset import Dataset
from tcertify.data.folders import ImageFolders

if TYPE_CHECKING:
    from PIL.Image import Image


class Augmented(TorchDataset[tuple[Tensor, int]]):
    """The images of all epochs: ``[epoch, i]`` depends on (seed, epoch, i), and on no order or
    worker.

    `how` is "none", "crop-flip" (the image shifted by up to 4 pixels over black, mirrored half of
    the time) or, for images in folders, "resized-crop-flip" (8 to 100 % of the image's area at an
    aspect of 3/4 to 4/3, scaled to 224x224, mirrored half of the time).
    """

    def __init__(self, data: Dataset, how: str, seed: int) -> None:
        if how == "resized-crop-flip" and not isinstance(data, ImageFolders):
            raise ValueError(f"`augment` resized-crop-flip is for image folders, not {data.name}.")
        self.data, self.how, self.seed = data, how, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        if self.how == "none":
            return self.data[index]
        rng = np.random.default_rng((self.seed, epoch, index))
        if isinstance(self.data, ImageFolders) and self.how == "resized-crop-flip":
            image = self.data.read(index, lambda picture: resized_crop(picture, rng))
            label = self.data.labels[index]
        else:
            image, label = self.data[index]
            image = crop(image, rng)
        return (image.flip(-1) if rng.integers(2) else image), label


def crop(image: Tensor, rng: np.random.Generator, border: int = 4) -> Tensor:
    """Return the image shifted by up to `border` pixels either way, over black."""
    height, width = image.shape[1:]
    padded = torch.nn.functional.pad(image, [border] * 4)
    top, left = rng.integers(0, 2 * border + 1, 2)
    return padded[:, top : top + height, left : left + width]


def resized_crop(picture: Image, rng: np.random.Generator, side: int = 224) -> Image:
    """Return a random part of the picture, scaled to a square of `side` pixels."""
    from PIL.Image import Resampling

    width, height = picture.size
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1)
        aspect = math.exp(rng.uniform(-1, 1) * math.log(4 / 3))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            break
    else:  # no such part fits into so long a picture
        w = h = min(width, height)
    left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    box = (int(left), int(top), int(left) + w, int(top) + h)
    return picture.resize((side, side), Resampling.BILINEAR, box=box)
