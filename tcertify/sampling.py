"""Votes of a classifier under Gaussian noise: the only file that calls the kernels.

A vote is a pure function of (seed, image id, sample id, stream), so counts depend neither on the
batch size nor on which images share a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from tcertify_kernels import add_noise, count_votes

from tcertify._checks import check_positive, check_whole, check_whole_array

#: Streams of noise that never overlap: choosing the class, certifying it, predicting.
SELECTION, ESTIMATION, PREDICTION = 0, 1, 2

BaseClassifier = Callable[[torch.Tensor], torch.Tensor]


class Sampler:
    """Counts the votes of a base classifier under noise, several images in a batch.

    Parameters
    ----------
    base_classifier : torch module or callable
        From a batch (B, ...) to logits (B, C). Runs in eval mode, its modes restored afterwards.
    num_classes : int
        C, the width of the logits; at least 2.
    sigma : float
        Standard deviation of the noise, in the units of the images.
    seed : int
        From 0 to 2^64 - 1.
    batch_size : int
        Rows of a forward pass. Memory grows with it, and with nothing else.
    """

    def __init__(
        self,
        base_classifier: BaseClassifier,
        num_classes: int,
        sigma: float,
        *,
        seed: int = 0,
        batch_size: int = 1000,
    ) -> None:
        if not callable(base_classifier):
            raise TypeError(
                f"`base_classifier` must be a torch module or callable, got {base_classifier!r}."
            )
        self.base_classifier = base_classifier
        self.num_classes = check_whole("num_classes", num_classes, minimum=2)
        self.sigma = check_positive("sigma", sigma)
        self.seed = check_whole("seed", seed, minimum=0, maximum=2**64 - 1)
        self.batch_size = check_whole("batch_size", batch_size)

    def count(
        self,
        images: torch.Tensor,
        image_ids: ArrayLike,
        start: ArrayLike,
        stop: ArrayLike,
        stream: int,
    ) -> NDArray[np.int64]:
        """Count the votes for the samples ``start[i] .. stop[i] - 1`` of each image.

        Parameters
        ----------
        images : float tensor (S, ...)
            On the device of the classifier.
        image_ids : array of whole numbers (S,)
            What the noise of an image is drawn from, below 2^32.
        start, stop : arrays of whole numbers (S,), or one for all
            Sample ids; equal where an image needs no votes.
        stream : int
            `SELECTION`, `ESTIMATION` or `PREDICTION`.

        Returns
        -------
        int64 array (S, C + 1)
            Votes for each class; the last column holds invalid votes (NaN logits).
        """
        check_images(images)
        slots = len(images)
        ids = np.broadcast_to(check_whole_array("image_ids", image_ids, maximum=2**32 - 1), slots)
        first = np.broadcast_to(check_whole_array("start", start), slots)
        last = np.broadcast_to(check_whole_array("stop", stop), slots)
        device = images.device
        counts = torch.zeros(slots, self.num_classes + 1, dtype=torch.int64, device=device)
        exact = images.float().contiguous()
        out = images.new_empty((0,))
        with evaluating(self.base_classifier), torch.inference_mode():
            for slot, sample in _batches(first, last, self.batch_size):
                if len(out) != len(slot):  # the first batch, and a shorter last one
                    out = images.new_empty((len(slot), *images.shape[1:]))
                on_device = torch.from_numpy(slot).to(device)
                add_noise(
                    out,
                    exact,
                    on_device,
                    torch.from_numpy(ids[slot]).to(device),
                    torch.from_numpy(sample).to(device),
                    sigma=self.sigma,
                    seed=self.seed,
                    stream=stream,
                )
                logits = check_logits(self.base_classifier(out), len(slot), self.num_classes)
                count_votes(counts, logits, on_device)
        return counts.cpu().numpy()


def check_images(images: torch.Tensor) -> None:
    """Refuse what no noise can be added to: other types, integers, NaN, infinity."""
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"`x` must be a torch tensor, got {type(images).__name__}.")
    if images.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(
            "`x` must be float32, float16 or bfloat16, in the range that the classifier was"
            f" trained on, got {images.dtype}."
        )
    if not bool(torch.isfinite(images).all()):
        raise ValueError("`x` must be finite, got NaN or Inf.")


def check_logits(logits: Any, rows: int, num_classes: int) -> torch.Tensor:
    """Return `logits`, contiguous, if they are a float tensor (rows, num_classes)."""
    expected = f"The base classifier must return float logits of shape ({rows}, {num_classes})"
    if not isinstance(logits, torch.Tensor):
        raise ValueError(f"{expected}, got {type(logits).__name__}.")
    if tuple(logits.shape) != (rows, num_classes) or not logits.is_floating_point():
        raise ValueError(f"{expected}, got {tuple(logits.shape)} of {logits.dtype}.")
    return logits.contiguous()


@contextmanager
def evaluating(base_classifier: BaseClassifier) -> Iterator[None]:
    """Put every submodule into eval mode; restore each one's own mode, exceptions included."""
    modules = (
        list(base_classifier.modules()) if isinstance(base_classifier, torch.nn.Module) else []
    )
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _batches(
    start: NDArray[np.int64], stop: NDArray[np.int64], batch_size: int
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
    """Cut the samples of all images, one image after the other, into (slot, sample) batches."""
    ends = np.cumsum(stop - start)
    begins = ends - (stop - start)
    for row in range(0, int(ends[-1]), batch_size):
        rows = np.arange(row, min(row + batch_size, int(ends[-1])))
        slot = np.searchsorted(ends, rows, side="right")
        yield slot.astype(np.int32), rows - begins[slot] + start[slot]
