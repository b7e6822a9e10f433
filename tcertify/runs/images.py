"""Images of a data set, loaded ahead and checked one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tcertify._checks import check_whole
from tcertify.sampling.defects import Defect, settle

#: Images that are loaded before they are needed.
_AHEAD = 32


@dataclass(frozen=True, eq=False)
class Loaded:
    """One image on its device; or, in `error`, why it cannot be certified.

    `excused` tells a defect of the image itself (NaN) from an exception on the way.
    """

    idx: int
    label: int
    pixels: torch.Tensor
    error: str | None = None
    excused: bool = False


def load_images(
    dataset: Any,
    indices: Iterable[int],
    device: torch.device,
    num_classes: int,
    allow: Iterable[str] = (),
) -> Generator[Loaded, None, None]:
    """Yield the images at `indices`, each loaded while those before it are at work.

    Raises
    ------
    ValueError, TypeError
        An image that is no single float image in the shape of the first, or a label out of range.
        float16, bfloat16 and those float64 images that are float32 numbers are converted exactly.
    VoidCertificateError
        An image outside [0, 1], unless "range" is allowed.
    """
    shape: torch.Size | None = None
    for idx, loading in _ahead(dataset, indices):
        try:
            image, label = loading.result()
        except Exception as error:
            yield Loaded(idx, 0, torch.empty(0), f"{type(error).__name__}: {error}")
            continue
        pixels = _checked_image(image, idx)
        shape = shape or pixels.shape
        if pixels.shape != shape:
            raise ValueError(
                f"Image {idx} has shape {tuple(pixels.shape)}, the first {tuple(shape)}."
            )
        label = check_whole("label", int(label), minimum=0, maximum=num_classes - 1)
        if not bool(torch.isfinite(pixels).all()):
            yield Loaded(idx, label, pixels, "its pixels are NaN or infinite", excused=True)
            continue
        if float(pixels.min()) < 0 or float(pixels.max()) > 1:
            settle([Defect(f"Image {idx} lies outside [0, 1].", "range")], allow)
        if device.type == "cuda":
            pixels = pixels.pin_memory()
        yield Loaded(idx, label, pixels.to(device, non_blocking=True))


def _ahead(dataset: Any, indices: Iterable[int]) -> Iterator[tuple[int, Future[Any]]]:
    """Yield futures of the items of a data set, a few of them under way."""
    waiting: deque[tuple[int, Future[Any]]] = deque()
    loader = ThreadPoolExecutor(1, "tcertify_images")
    try:
        for idx in indices:
            waiting.append((idx, loader.submit(lambda at: dataset[at], idx)))
            if len(waiting) > _AHEAD:
                yield waiting.popleft()
        yield from waiting
    finally:
        loader.shutdown(cancel_futures=True)


def _checked_image(image: Any, idx: int) -> torch.Tensor:
    """Return an image as a contiguous float32 tensor of the same values."""
    if not isinstance(image, (torch.Tensor, np.ndarray)):
        raise TypeError(f"Image {idx} must be a tensor or an array, got {type(image).__name__}.")
    tensor = torch.as_tensor(image)
    if not tensor.is_floating_point():
        raise TypeError(f"Image {idx} must be floats in [0, 1], got {tensor.dtype}: scale it.")
    if not 1 <= tensor.dim() <= 3 or tensor.numel() == 0:
        raise ValueError(f"Image {idx} must be one image, (C, H, W), got {tuple(tensor.shape)}.")
    exact = tensor.detach().float().contiguous()
    if not torch.equal(exact.to(tensor.dtype).nan_to_num(), tensor.nan_to_num()):
        raise ValueError(f"Image {idx} is float64 with more digits than float32: convert it.")
    return exact
