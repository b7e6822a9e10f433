"""ImageNet from a folder tree with ``train/`` and ``val/``, as the field cuts it."""

from __future__ import annotations

from pathlib import Path

from tcertify.data import folders
from tcertify.data.dataset import check_split


def load(split: str, root: str | Path) -> folders.ImageFolders:
    """Load ImageNet under `root`, (3, 224, 224) float32 in [0, 1]: ``train/`` for "train",
    ``val/`` for "test".

    Each holds one folder for each class, named alike in both. An image is scaled so that its
    shorter side is 256, and its centre is cut out; all else is as `folders.load` says.

    Raises
    ------
    ValueError, ModuleNotFoundError
        As for `folders.load`.
    FileNotFoundError
        There are no images, with where to obtain them.
    """
    folder = Path(root) / {"train": "train", "test": "val"}[check_split(split)]
    try:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} does not exist.")
        return folders.load(root, split, name="imagenet", resize=256, crop=224)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} ImageNet must lie there with a folder of JPEG files for each class, such as"
            " n01440764/; it is to be had, after registration, from https://image-net.org."
        ) from None
