"""Data sets by name: those that tcertify knows, files, folders, and functions of the user's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tcertify._named import call_named, find_named, is_named, split_call
from tcertify.data.dataset import Dataset, check_split

#: The data sets that `load` knows by a name of their own.
NAMES = ("digits", "fashion-mnist", "cifar10", "imagenet")


def load(
    name: str,
    split: str = "test",
    root: str | Path | None = None,
    *,
    num_classes: int | None = None,
    resize: int | None = None,
    crop: int | None = None,
) -> Dataset:
    """Load a data set by its name.

    Parameters
    ----------
    name : str
        ``digits``; ``fashion-mnist``, which lies in `root` or where Debian's package of it puts it;
        ``cifar10`` or ``imagenet``, which lie in `root`; the path of an ``.npz`` file
        or of a folder ``CLASS/file``; ``package.module:function``, called with ``split=`` where it
        takes it, which returns a data set or a pair (images, labels); ``torchvision:NAME``.
    split : {"test", "train"}
    root : path, optional
        The folder that holds a data set which is known by name.
    num_classes : int, optional
        For what does not say it, such as an ``.npz`` file or a function that returns pairs.
    resize, crop : int, optional
        For a folder of images: see `tcertify.data.folders.load`.

    Raises
    ------
    ValueError
        There is nothing of that name, with what there is; or what its loader raises.
    """
    from tcertify.data import arrays, folders

    check_split(split)
    if (resize, crop) != (None, None) and not Path(name).is_dir():
        raise ValueError(f"`resize` and `crop` are for a folder of images, not for {name}.")
    if name in NAMES:
        return _known(name, split, root)
    if name.endswith(".npz"):
        return arrays.load(name, split, num_classes)
    if name.startswith("torchvision:"):
        return _torchvision(name.partition(":")[2], split, root, num_classes)
    if is_named(name):
        return _from_function(name, split, num_classes)
    if Path(name).is_dir():
        return folders.load(name, split, resize=resize, crop=crop)
    raise ValueError(
        f"DATASET must be one of {', '.join(NAMES)}, an .npz file, a folder of images,"
        f" package.module:function or torchvision:NAME, got {name!r}."
    )


def _known(name: str, split: str, root: str | Path | None) -> Dataset:
    from tcertify.data import cifar10, digits, fashion_mnist, imagenet

    if name == "digits":
        return digits.load(split)
    if name == "fashion-mnist":
        return fashion_mnist.load(split, root)
    if root is None:
        raise ValueError(f"`root` must name the folder that holds {name}, got None.")
    loaders: dict[str, Callable[[str, str | Path], Dataset]] = {
        "cifar10": cifar10.load,
        "imagenet": imagenet.load,
    }
    return loaders[name](split, root)


def _from_function(name: str, split: str, num_classes: int | None) -> Dataset:
    from tcertify.data.adapt import as_dataset

    path, arguments = split_call(name, "DATASET")
    function = find_named(path, "DATASET")
    if not callable(function):
        raise ValueError(f"DATASET {name} must be a function, got {type(function).__name__}.")
    if "split" in inspect.signature(function).parameters:
        arguments.setdefault("split", split)
    made = call_named(function, name, "DATASET", **arguments)
    return as_dataset(made, name=f"{name}/{split}", num_classes=num_classes)


def _torchvision(
    name: str, split: str, root: str | Path | None, num_classes: int | None
) -> Dataset:
    """Return a data set of torchvision's that lies in `root`; nothing is downloaded."""
    from tcertify.data.adapt import as_dataset

    try:
        from torchvision import datasets  # type: ignore[import-not-found, unused-ignore]
    except Exception as error:  # torchvision beside another torch fails in its own ways
        raise ModuleNotFoundError(
            f"torchvision cannot be imported ({error}): pip install torchvision."
        ) from None
    kind: Any = getattr(datasets, name, None)
    if kind is None:
        raise ValueError(f"DATASET torchvision:{name}: torchvision.datasets has no {name}.")
    if root is None:
        raise ValueError(f"`root` must name the folder that holds {name}, got None.")
    parameters = inspect.signature(kind).parameters
    where = {"train": split == "train"} if "train" in parameters else {"split": split}
    try:
        found = kind(root, **where)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"DATASET torchvision:{name}: {error}") from None
    called = f"torchvision:{name}/{split}"
    return as_dataset(found, name=called, num_classes=num_classes, levels=255)
