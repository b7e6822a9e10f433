"""ImageNet, or any images in class folders, from a folder tree with ``train/`` and ``val/``."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tcertify.data.dataset import check_split

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDERS = {"train": "train", "test": "val"}
SUFFIXES = (".jpeg", ".jpg", ".png")


@dataclass(frozen=True, eq=False)
class ImageFolders:
    """Images in class folders, read and decoded one by one when asked for; see `load`."""

    name: str
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]

    @property
    def num_classes(self) -> int:
        """The number of class folders."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.read(index, _centre), self.labels[index]

    def read(self, index: int, crop: Callable[[Image], Image]) -> Tensor:
        """Return one image in RGB, cut by `crop`, as a float32 tensor (3, H, W) in [0, 1]."""
        from PIL import Image

        path = self.paths[index]
        try:
            # A picture of more pixels than Pillow trusts is refused, not read with a warning.
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path) as image:
                    pixels = np.asarray(crop(image.convert("RGB")), dtype=np.float32)
        except (OSError, SyntaxError, ValueError, Warning, Image.DecompressionBombError) as error:
            size = path.stat().st_size
            raise ValueError(f"{path} ({size:,} bytes) is no image to be read: {error}") from error
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy()) / 255

    def fingerprint(self) -> str:
        """Return the SHA-256 of the files' names and sizes: their content would take hours."""
        digest = hashlib.sha256(self.name.encode())
        for path in self.paths:
            entry = f"{path.parent.name}/{path.name} {path.stat().st_size}\n"
            digest.update(entry.encode())
        return digest.hexdigest()


def load(split: str, root: str | Path) -> ImageFolders:
    """Load the images under `root`, (3, 224, 224) float32 in [0, 1]: ``train/`` for "train",
    ``val/`` for "test".

    Each holds one folder for each class, named alike in both; a class is numbered by its place in
    the sorted names. An image is scaled so that its shorter side is 256 and its centre is cut out.
    Other colour spaces are converted to RGB; EXIF rotation is not applied. Files that are neither
    JPEG nor PNG by name are passed over.

    Raises
    ------
    ValueError
        If `split` is neither "train" nor "test", or, on reading an image, if its file is damaged;
        the message names the file and its size.
    FileNotFoundError
        If there are no images, with how they should lie.
    ModuleNotFoundError
        If Pillow is not installed, with the line that installs it.
    """
    folder = Path(root) / FOLDERS[check_split(split)]
    try:
        import PIL  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'Images are read with Pillow: pip install "tcertify[train]".'
        ) from None
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    items = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).iterdir())
        if path.suffix.lower() in SUFFIXES
    ]
    if not items:
        raise FileNotFoundError(
            f"No images in {folder}: it must hold a folder of JPEG files for each class, such as "
            "n01440764/. ImageNet is to be had, after registration, from https://image-net.org."
        )
    paths, labels = zip(*items, strict=True)
    return ImageFolders(f"imagenet/{split}", tuple(classes), paths, labels)


def _centre(image: Image) -> Image:
    from PIL.Image import Resampling

    scale = 256 / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    left, top = (width - 224) // 2, (height - 224) // 2
    scaled = image.resize((width, height), Resampling.BILINEAR)
    return scaled.crop((left, top, left + 224, top + 224))
