"""Images in class folders: ``CLASS/file`` below one folder, or below one for each split."""

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

#: Where the images of a split may lie below the folder, if they do not lie there directly.
FOLDERS = {"train": ("train",), "test": ("test", "val")}
SUFFIXES = (".jpeg", ".jpg", ".png")

#: An image is never scaled to more pixels than this: so long and thin a picture is no photograph.
MOST_PIXELS = 2**24


@dataclass(frozen=True, eq=False)
class ImageFolders:
    """Images in class folders, read and decoded one by one when asked for; see `load`."""

    name: str
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    resize: int | None = None
    crop: int | None = None

    #: Pixels are bytes.
    levels = 255

    @property
    def num_classes(self) -> int:
        """The number of class folders."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.read(index, self._centre), self.labels[index]

    def read(self, index: int, crop: Callable[[Image], Image]) -> Tensor:
        """Return one image in RGB, cut by `crop`, as a float32 tensor (3, H, W) in [0, 1]."""
        from PIL import Image

        path = self.paths[index]
        try:
            # A picture of more pixels than Pillow trusts is refused, not read with a warning.
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path, formats=["JPEG", "PNG"]) as image:
                    if image.mode.startswith(("I", "F")):
                        raise ValueError("it has more than 8 bits per channel")
                    pixels = np.asarray(crop(image.convert("RGB")), dtype=np.float32)
        except (OSError, SyntaxError, ValueError, Warning, Image.DecompressionBombError) as error:
            size = path.stat().st_size
            raise ValueError(f"{path} ({size:,} bytes) is no image to be read: {error}") from error
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy()) / 255

    def fingerprint(self) -> str:
        """Return the SHA-256 of the files' names and sizes: their content would take hours."""
        digest = hashlib.sha256(self.name.encode())
        if (self.resize, self.crop) != (None, None):
            digest.update(f" {self.resize} {self.crop} ".encode())
        for path in self.paths:
            entry = f"{path.parent.name}/{path.name} {path.stat().st_size}\n"
            digest.update(entry.encode())
        return digest.hexdigest()

    def _centre(self, image: Image) -> Image:
        """Return the image with its shorter side scaled to `resize` and the centre cut out."""
        from PIL.Image import Resampling

        if self.resize is not None:
            scale = self.resize / min(image.size)
            size = round(image.size[0] * scale), round(image.size[1] * scale)
            if size[0] * size[1] > MOST_PIXELS:
                raise ValueError(f"{image.size[0]}x{image.size[1]} pixels would become {size}")
            image = image.resize(size, Resampling.BILINEAR)
        if self.crop is not None:
            width, height = image.size
            if min(width, height) < self.crop:
                raise ValueError(f"{width}x{height} pixels are too few to cut {self.crop}")
            left, top = (width - self.crop) // 2, (height - self.crop) // 2
            image = image.crop((left, top, left + self.crop, top + self.crop))
        return image


def load(
    root: str | Path,
    split: str = "test",
    *,
    name: str | None = None,
    resize: int | None = None,
    crop: int | None = None,
) -> ImageFolders:
    """Load the images under `root`, (3, H, W) float32 in [0, 1].

    They lie in one folder for each class, below `root` itself, or below ``root/train`` for the
    split "train" and ``root/test`` or ``root/val`` for "test". A class is numbered by its place
    in the sorted names. Nothing is scaled unless it is asked for: radii are in the images' own
    pixels. Other colour spaces are converted to RGB; EXIF rotation is not applied. Files that are
    neither JPEG nor PNG by name are passed over.

    Parameters
    ----------
    root : path
    split : {"test", "train"}
    name : str, optional
        Of the data set; without it, the folder's.
    resize : int, optional
        Scale each image so that its shorter side has this many pixels (bilinear).
    crop : int, optional
        Cut out a square of this many pixels from the centre, after scaling.

    Raises
    ------
    ValueError
        An unknown split; on reading an image, a file that is damaged, has more than 8 bits per
        channel or too few pixels to cut. The message names the file and its size.
    FileNotFoundError
        There are no images, with how they should lie.
    ModuleNotFoundError
        Pillow is not installed, with the line that installs it.
    """
    folder = _folder(Path(root), check_split(split))
    try:
        import PIL  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError("Images are read with Pillow: pip install pillow.") from None
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    items = [
        (path, label)
        for label, class_name in enumerate(classes)
        for path in sorted((folder / class_name).iterdir())
        if path.suffix.lower() in SUFFIXES
    ]
    if not items:
        raise FileNotFoundError(
            f"No images in {folder}: it must hold a folder of JPEG or PNG files for each class."
        )
    paths, labels = zip(*items, strict=True)
    called = f"{name or Path(root).resolve().name}/{split}"
    return ImageFolders(called, tuple(classes), paths, labels, resize, crop)


def _folder(root: Path, split: str) -> Path:
    """Return the folder that holds the class folders of a split."""
    for name in FOLDERS[split]:
        if (root / name).is_dir():
            return root / name
    return root
