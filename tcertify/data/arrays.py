"""Images and labels that are arrays: from Python, or from an .npz file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tcertify.data.dataset import TensorDataset, check_split

#: What the members of an .npz file may be called, images and labels, by split.
MEMBERS = {
    "test": (("x_test", "y_test"), ("x", "y"), ("images", "labels")),
    "train": (("x_train", "y_train"), ("x", "y"), ("images", "labels")),
}


def from_arrays(
    x: Any, y: Any, *, name: str = "arrays", num_classes: int | None = None
) -> TensorDataset:
    """Return the data set of images `x` and labels `y`.

    Parameters
    ----------
    x : array or tensor (N, ...)
        float32 in [0, 1], or uint8, of which 255 stands for 1. (N, H, W) gets one channel.
        float64 is rounded to float32, and the data set's `notes` say so.
    y : array or tensor of whole numbers (N,)
        From 0.
    name : str
        Of the data set, stored with every run.
    num_classes : int, optional
        Without it, one more than the largest label.

    Raises
    ------
    ValueError
        Images outside [0, 1] (with what to do), lengths that differ, labels that are not whole
        numbers from 0.
    """
    images, labels = _tensor("x", x), _tensor("y", y)
    if images.dim() < 2 or not len(images):
        raise ValueError(f"`x` must hold images, (N, C, H, W), got shape {tuple(images.shape)}.")
    if labels.shape != (len(images),):
        raise ValueError(
            f"`y` must hold one label for each of {len(images)} images, got shape"
            f" {tuple(labels.shape)}."
        )
    if labels.is_floating_point() or labels.dtype == torch.bool or int(labels.min()) < 0:
        raise ValueError("`y` must be whole numbers from 0.")
    pixels, notes = _pixels(images)
    return TensorDataset(
        name=name,
        num_classes=int(labels.max()) + 1 if num_classes is None else num_classes,
        images=pixels[:, None] if pixels.dim() == 3 else pixels,
        labels=labels.long(),
        notes=notes,
    )


def load(path: str | Path, split: str = "test", num_classes: int | None = None) -> TensorDataset:
    """Load an .npz file: images and labels called ``x`` and ``y``, ``images`` and ``labels``, or
    ``x_test`` and ``y_test`` (``x_train`` and ``y_train`` for the training split).

    The arrays are those of `from_arrays`. Nothing in the file is executed: arrays of Python
    objects are refused.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is damaged or no .npz file, its arrays have other names or are none of these; the
        message names the file and what it holds.
    """
    path, split = Path(path), check_split(split)
    if not path.is_file():
        raise FileNotFoundError(f"DATASET {path} does not exist.")
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            _check_sizes(path)
            held = ", ".join(file.files) or "nothing"
            names = next((pair for pair in MEMBERS[split] if set(pair) <= set(file.files)), None)
            if names is None:
                wanted = " or ".join(f"{x} and {y}" for x, y in MEMBERS[split])
                raise ValueError(f"it must hold {wanted}, and holds {held}")
            x, y = (file[name] for name in names)
        return from_arrays(x, y, name=f"{path.name}/{split}", num_classes=num_classes)
    except AttributeError:  # numpy returns a bare array for an .npy file
        raise ValueError(f"DATASET {path} holds one array, not images and labels.") from None
    except Exception as error:  # a damaged archive raises almost anything
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else "it is too large"
        raise ValueError(f"DATASET {path} cannot be read as images: {reason}.") from None


def _check_sizes(path: Path) -> None:
    """Refuse a member that says it holds more than it does: numpy would make room for all of it."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }.get(version)
                if read is None:
                    raise ValueError(f"{member.filename} is an array of version {version}")
                shape, _, dtype = read(file)
                if dtype.hasobject:
                    raise ValueError(f"{member.filename} holds Python objects")
                needed = file.tell() + dtype.itemsize * int(np.prod(shape, dtype=object))
                if needed != member.file_size:
                    raise ValueError(f"{member.filename} is truncated or damaged")


def _tensor(name: str, value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    array: NDArray[Any] = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"`{name}` must be numbers, got {array.dtype}.")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return torch.from_numpy(np.ascontiguousarray(array))


def _pixels(images: torch.Tensor) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Return uint8 or float32 images in [0, 1], and what is to be said of them."""
    if images.dtype == torch.uint8:
        return images.contiguous(), ()
    if not images.is_floating_point():
        raise ValueError(f"`x` must be uint8 or floats in [0, 1], got {images.dtype}.")
    problem = describe_range(images)
    if problem:
        raise ValueError(f"`x` lies outside [0, 1]: {problem}")
    exact = images.float().contiguous()
    if torch.equal(exact.to(images.dtype).nan_to_num(), images.nan_to_num()):
        return exact, ()
    return exact, (f"The images were {images.dtype} and were rounded to float32.",)


def describe_range(images: torch.Tensor) -> str | None:
    """Return what images outside [0, 1] seem to be and what to do about it, or None."""
    finite = images[torch.isfinite(images)]
    if not finite.numel():
        return None
    low, high = float(finite.min()), float(finite.max())
    if low >= 0 and high <= 1:
        return None
    held = f"the pixels reach from {low:.4g} to {high:.4g}"
    if low >= 0 and 2 < high <= 255:
        return f"{held}, like bytes: divide them by 255."
    if low >= -1 and high <= 1:
        return f"{held}: map them by (x + 1) / 2, and undo it in the model's first layer."
    return (
        f"{held}, like standardised images: give images in [0, 1] and put"
        " `tcertify.classifiers.Standardise(mean, std)` before the model."
    )
