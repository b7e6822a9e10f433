"""CIFAR-10 from disk: the binary or the python version, as an archive or unpacked."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import pickletools
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tcertify.data.dataset import check_split

#: A file holds this many images; in the binary version a record is a label and 3,072 pixels.
IMAGES_PER_FILE = 10_000
PIXELS = 3 * 32 * 32
RECORD = 1 + PIXELS

#: A pickled file holds the names of its images and little else.
_MOST_OBJECTS = 2**20

BINARY = {
    "train": [f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)],
    "test": ["cifar-10-batches-bin/test_batch.bin"],
}
PYTHON = {
    "train": [f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)],
    "test": ["cifar-10-batches-py/test_batch"],
}
#: What may lie in the folder, in order of preference, with the archive it comes in.
VERSIONS = ((BINARY, "cifar-10-binary.tar.gz"), (PYTHON, "cifar-10-python.tar.gz"))


@dataclass(frozen=True, eq=False)
class Cifar10:
    """CIFAR-10's images, decoded one by one when asked for; see `load`."""

    name: str
    records: tuple[NDArray[np.uint8], ...]
    num_classes: int = 10

    #: Pixels are bytes.
    levels = 255

    def __len__(self) -> int:
        return IMAGES_PER_FILE * len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"`index` must be in [0, {len(self)}), got {index}.")
        record = self.records[index // IMAGES_PER_FILE][index % IMAGES_PER_FILE]
        pixels = torch.from_numpy(record[1:].astype(np.float32))
        return pixels.reshape(3, 32, 32) / 255, int(record[0])

    def fingerprint(self) -> str:
        """Return the SHA-256 of the name, the labels and the pixels: one for every version."""
        digest = hashlib.sha256(self.name.encode())
        for records in self.records:
            digest.update(np.ascontiguousarray(records).data)
        return digest.hexdigest()


def load(split: str, root: str | Path) -> Cifar10:
    """Load CIFAR-10 from the folder `root`: 50,000 training or 10,000 test images, (3, 32, 32)
    float32 in [0, 1].

    `root` holds the folder ``cifar-10-batches-bin`` or ``cifar-10-batches-py``, or one of the
    archives ``cifar-10-binary.tar.gz`` and ``cifar-10-python.tar.gz``; the first of these that is
    there is read. Unpacked binary files are mapped into memory, the others are held as bytes
    (30 MB a file). Nothing is unpacked to disk, and nothing in a pickle is executed.

    Raises
    ------
    ValueError
        If `split` is neither "train" nor "test", or a file is damaged; the message names the file
        and its size.
    FileNotFoundError
        If the data or one of its files is missing, with where to obtain it.
    """
    check_split(split)
    root = Path(root)
    for files, archive in VERSIONS:
        names = files[split]
        read = _read_binary if files is BINARY else _read_python
        if (root / names[0]).parent.is_dir():
            records = tuple(read(root / name) for name in names)
        elif (root / archive).is_file():
            records = tuple(read(file) for file in _members(root / archive, names))
        else:
            continue
        return Cifar10(f"cifar10/{split}", records)
    raise FileNotFoundError(
        f"CIFAR-10 is not in {root}: put cifar-10-binary.tar.gz there, from "
        "https://www.cs.toronto.edu/~kriz/cifar.html, unpacked or not."
    )


@dataclass(frozen=True)
class _Member:
    """A file of an archive, read whole, that answers to what `_read_*` ask of a path."""

    label: str
    content: bytes

    def __str__(self) -> str:
        return self.label

    def open(self, _mode: str) -> BinaryIO:
        return io.BytesIO(self.content)


def _members(archive: Path, names: list[str]) -> Iterator[_Member]:
    """Yield the named files of a tar archive, in their order; no path of the archive is used."""
    found: dict[str, bytes] = {}
    try:
        with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for entry in tar:
                name = entry.name.removeprefix("./")
                file = tar.extractfile(entry) if name in names and entry.isfile() else None
                if file is not None:
                    found[name] = file.read(2 * IMAGES_PER_FILE * RECORD)
            while stream.read(2**20):  # to the end, where gzip's checksum stands
                pass
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        size = archive.stat().st_size
        raise ValueError(f"{archive} ({size} bytes) is truncated or no archive: {error}") from error
    for name in names:
        if name not in found:
            raise FileNotFoundError(f"{archive} lacks {name}.")
        yield _Member(f"{archive}:{name}", found[name])


def _read_binary(path: Path | _Member) -> NDArray[np.uint8]:
    expected = IMAGES_PER_FILE * RECORD
    if isinstance(path, Path):
        size = _size(path)
        content: Any = np.memmap(path, np.uint8, "r") if size == expected else b""
    else:
        content, size = path.content, len(path.content)
    if size != expected:
        raise ValueError(f"{path} has {size:,} bytes, a CIFAR-10 file has {expected:,}.")
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    return _checked(records, path)


def _read_python(path: Path | _Member) -> NDArray[np.uint8]:
    size = _size(path) if isinstance(path, Path) else len(path.content)
    try:
        with path.open("rb") as file:
            _check_memo(file)
            batch = _ArrayUnpickler(file, encoding="bytes").load()
        images, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except Exception as error:  # a damaged pickle raises almost anything
        raise ValueError(
            f"{path} ({size:,} bytes) is truncated or no CIFAR-10 batch: {error}"
        ) from error
    if images.shape != (IMAGES_PER_FILE, PIXELS) or images.dtype != np.uint8:
        raise ValueError(f"{path} ({size:,} bytes) holds {images.dtype} of shape {images.shape}.")
    if labels.shape != (IMAGES_PER_FILE,) or labels.dtype.kind != "i":
        raise ValueError(f"{path} ({size:,} bytes) holds labels of shape {labels.shape}.")
    if not ((labels >= 0) & (labels < 10)).all():
        raise ValueError(f"{path} holds a label outside [0, 10).")
    return np.hstack([labels[:, None].astype(np.uint8), images])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is missing: CIFAR-10 is there only in part, unpack its archive again."
        ) from None


def _checked(records: NDArray[np.uint8], path: Path | _Member) -> NDArray[np.uint8]:
    worst = int(records[:, 0].max())
    if worst >= 10:
        raise ValueError(f"{path} holds the label {worst}, outside [0, 10).")
    return records


def _check_memo(file: BinaryIO) -> None:
    """Refuse a pickle of few bytes that numbers an object so highly that memory runs out."""
    for operation, argument, _ in pickletools.genops(file):
        if "PUT" in operation.name and int(argument or 0) > _MOST_OBJECTS:
            raise pickle.UnpicklingError(f"it numbers an object {argument}")
    file.seek(0)


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that knows NumPy's byte arrays and nothing else: it calls no named function."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for one of NumPy's three names; refuse every other."""
        known = {
            ("numpy.core.multiarray", "_reconstruct"): _Array,
            ("numpy._core.multiarray", "_reconstruct"): _Array,
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Dtype,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return known[module, name]


class _Dtype:
    """The pickled type of an array's elements, of which bytes alone are allowed."""

    def __init__(self, code: bytes | str, *_: object) -> None:
        if code not in (b"u1", "u1"):
            raise pickle.UnpicklingError(f"it holds elements of type {code!r}")

    def __setstate__(self, state: object) -> None: ...


class _Array:
    """A pickled byte array."""

    pixels: NDArray[np.uint8]

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Dtype, bool, bytes]) -> None:
        _, shape, _, fortran, content = state
        order: Any = "F" if fortran else "C"
        self.pixels = np.frombuffer(content, np.uint8).reshape(shape, order=order)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.uint8]:
        return self.pixels
