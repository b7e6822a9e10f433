"""Images of a data set, loaded ahead and checked one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tcertify._checks import check_whole
from tcertify.data.arrays import describe_range
from tcertify.data.dataset import Dataset
from tcertify.sampling.defects import Defect, settle
from tcertify_kernels import check_grid

#: Images that are loaded before they are needed.
_AHEAD = 32


@dataclass(frozen=True, eq=False)
class Loaded:
    """One image on its device; or, in `error`, why it cannot be certified.

    `excused` is True if the pixels are at fault (NaN), False if loading failed. `outside` says
    how the image lies outside [0, 1], if it does; `rounded`, whether float32 holds it only nearly.
    """

    image_id: int
    label: int
    pixels: torch.Tensor
    error: str | None = None
    excused: bool = False
    outside: str | None = None
    rounded: bool = False


def load_images(
    dataset: Dataset,
    image_ids: Iterable[int],
    device: torch.device,
    num_classes: int,
    allow: Iterable[str] = (),
    levels: int | None = None,
    shape: torch.Size | None = None,
) -> Generator[Loaded, None, None]:
    """Yield the images at `image_ids`, each loaded while those before it are at work.

    Each is a copy, so that a data set may use its buffer again. float16 and bfloat16 are converted
    exactly, float64 is rounded to float32. An image that cannot be loaded, that is no single float
    image in `shape` (without it, in the shape of the first), that is not on the grid of `levels`,
    or whose label is none of the classes, comes with the reason in its ``error``.

    Raises
    ------
    VoidCertificateError
        An image outside [0, 1], unless "range" is allowed.
    """
    for loading in _ahead(dataset, image_ids, num_classes, levels):
        image = loading.result()
        if image.error is None:
            shape = shape or image.pixels.shape
            if image.pixels.shape != shape:
                text = f"its shape is {tuple(image.pixels.shape)}, that of the first {tuple(shape)}"
                yield Loaded(image.image_id, image.label, torch.empty(0), text)
                continue
        if image.outside:
            reason = f"Image {image.image_id} lies outside [0, 1]: {image.outside}"
            settle([Defect(reason, "range")], allow)
        yield _on(device, image)


def _ahead(
    dataset: Dataset, image_ids: Iterable[int], num_classes: int, levels: int | None
) -> Iterator[Future[Loaded]]:
    """Yield futures of the images of a data set, a few of them under way."""
    waiting: deque[Future[Loaded]] = deque()
    loader = ThreadPoolExecutor(1, "tcertify_images")
    try:
        for image_id in image_ids:
            waiting.append(loader.submit(_load, dataset, image_id, num_classes, levels))
            if len(waiting) > _AHEAD:
                yield waiting.popleft()
        yield from waiting
    finally:
        loader.shutdown(cancel_futures=True)


def _load(dataset: Dataset, image_id: int, num_classes: int, levels: int | None) -> Loaded:
    """Return one image, checked and copied while the data set has not gone on to the next."""
    label = 0
    try:
        image, label_given = dataset[image_id]
        label = check_whole("label", label_given, minimum=0, maximum=num_classes - 1)
        pixels, rounded = _copy(image)
    except Exception as error:
        return Loaded(image_id, label, torch.empty(0), described(error))
    if not bool(torch.isfinite(pixels).all()):
        reason = "its pixels are NaN or infinite"
        return Loaded(image_id, label, torch.empty(0), reason, excused=True)
    outside = describe_range(pixels)
    if levels is not None:
        try:
            check_grid(pixels, levels)
        except ValueError as error:
            reason = str(error).removesuffix(".")
            return Loaded(image_id, label, pixels, reason, outside=outside)
    return Loaded(image_id, label, pixels, outside=outside, rounded=rounded)


def described(error: BaseException) -> str:
    """Return the class and the message of an exception, whatever it does when it is asked."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def _copy(image: Any) -> tuple[torch.Tensor, bool]:
    """Return an image as a contiguous float32 tensor of its own, and whether it was rounded."""
    if not isinstance(image, (torch.Tensor, np.ndarray)):
        raise TypeError(f"an image must be a tensor or an array, got {type(image).__name__}")
    tensor = torch.as_tensor(image).detach()
    if not tensor.is_floating_point():
        raise TypeError(f"an image must be floats in [0, 1], got {tensor.dtype}: scale it")
    if not 1 <= tensor.dim() <= 3 or tensor.numel() == 0:
        raise ValueError(f"an image must be one image, (C, H, W), got {tuple(tensor.shape)}")
    single = tensor.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    same = torch.equal(single.to(tensor.dtype).nan_to_num(), tensor.nan_to_num())
    return single.cpu(), not same


def _on(device: torch.device, image: Loaded) -> Loaded:
    pixels = image.pixels.pin_memory() if device.type == "cuda" else image.pixels
    moved = pixels.to(device, non_blocking=True)
    return replace(image, pixels=moved)
