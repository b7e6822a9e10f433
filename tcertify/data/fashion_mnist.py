"""Fashion-MNIST: 70,000 real photographs of clothes in 28x28 pixels, from IDX files on disk."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tcertify.data.dataset import TensorDataset, check_split

#: Where Debian's package dataset-fashion-mnist puts the files.
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
OBTAIN = (
    "Debian's package dataset-fashion-mnist brings them, as does "
    "https://github.com/zalandoresearch/fashion-mnist"
)
COUNTS = {"train": 60_000, "test": 10_000}
PREFIXES = {"train": "train", "test": "t10k"}
SIDE, CLASSES = 28, 10

#: SHA-256 of each file's content once unpacked. MNIST's files have the same names and form.
DIGESTS = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def load(split: str, root: str | Path | None = None) -> TensorDataset:
    """Load Fashion-MNIST: 60,000 training or 10,000 test images, (1, 28, 28) float32 in [0, 1].

    `root` holds the four IDX files under their own names, packed (``.gz``) or not; without it, the
    files of Debian's package dataset-fashion-mnist are read. Their content is compared with that of
    the published files, so nothing else is taken for them.

    Raises
    ------
    ValueError
        If `split` is neither "train" nor "test", or a file is truncated, damaged or another; the
        message names the file and its size.
    FileNotFoundError
        If a file is missing, with where to obtain it.
    """
    count, prefix = COUNTS[check_split(split)], PREFIXES[split]
    folder = DEBIAN if root is None else Path(root)
    images = _read(folder, f"{prefix}-images-idx3-ubyte", (count, SIDE, SIDE))
    labels = _read(folder, f"{prefix}-labels-idx1-ubyte", (count,))
    return TensorDataset(
        name=f"fashion-mnist/{split}",
        num_classes=CLASSES,
        images=torch.from_numpy(images[:, None]),
        labels=torch.from_numpy(labels.astype(np.int64)),
    )


def _read(folder: Path, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the bytes of an IDX file of this shape, if it is the published one."""
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    size = len(header) + int(np.prod(shape))
    path = _find(folder, name)
    content = _content(path, size + 1)
    found = f"{path} ({path.stat().st_size:,} bytes)"
    if content[: len(header)] != header:
        raise ValueError(
            f"{found} is no IDX file of {shape} bytes: it begins {content[:16].hex()}."
        )
    if len(content) != size:
        what = "truncated" if len(content) < size else "longer than its header says"
        raise ValueError(f"{found} is {what}: it must hold {size:,} bytes once unpacked.")
    if hashlib.sha256(content).hexdigest() != DIGESTS[name]:
        raise ValueError(
            f"{found} is not Fashion-MNIST's: it is damaged, or another data set's of the same "
            f"form, such as MNIST's. {OBTAIN}."
        )
    pixels = np.frombuffer(bytearray(content), np.uint8, offset=len(header))
    return pixels.reshape(shape)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"Fashion-MNIST's {name} is not in {folder}, packed or not. {OBTAIN}.")


def _content(path: Path, most: int) -> bytes:
    """Return a file's content, unpacked, but no more bytes than `most`, whatever it holds."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as packed:
                return packed.read(most)
        with path.open("rb") as plain:
            return plain.read(most)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        size = path.stat().st_size
        raise ValueError(f"{path} ({size:,} bytes) is truncated or not gzip: {error}") from error
