"""The buffers of a batch, the step that fills, classifies and counts it, and its size."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

from tcertify.classifiers.classifier import Classifier
from tcertify.classifiers.fingerprint import Fingerprint
from tcertify.sampling.graphs import Graphs
from tcertify.sampling.memory import settle
from tcertify.sampling.noise import Noise, without_ties
from tcertify_kernels import count_votes

#: Elements of noise for which a kernel's work outweighs the cost of calling it on a CPU.
_KERNEL_ELEMENTS = 2**20

#: A CUDA graph is recorded where there are more batches than this, after the first of them.
_GRAPH_BATCHES, _WARMING_BATCHES = 8, 3

#: In the place of no votes yet, of an image that must get none: no votes make up for it.
_UNSUITED = torch.iinfo(torch.int64).min

#: Rows of a batch that is not limited: powers of two between these. Fewer than 8 cost a network
#: more in calls than the cache gives back (docs/performance.md).
_FEWEST_ROWS, _MOST_ROWS, _MOST_ROWS_ON_GPU = 8, 2**10, 2**14


class Batch:
    """The buffers of one batch, and the step that fills them, classifies them and counts.

    Parameters
    ----------
    classifier : Classifier
    noise : Noise
    images : tensor (S, ...)
        Such as will be counted: the buffers hold as many of their shape.
    rows : int
        Of a forward pass.
    """

    def __init__(
        self, classifier: Classifier, noise: Noise, images: torch.Tensor, rows: int
    ) -> None:
        self._classifier = classifier
        self._noise = noise
        self._fixed = classifier.fixed_shape
        # On a CPU several small forward passes share one call of each kernel.
        elements = rows * images[0].numel()
        passes = 1 if images.is_cuda else max(1, _KERNEL_ELEMENTS // elements)
        self._forward_rows = rows
        self._size = passes * rows
        slots = 1 << (len(images) - 1).bit_length()  # as more may come, but not many times
        self._images = torch.zeros(slots, *images.shape[1:], device=images.device)
        zeros = partial(torch.zeros, dtype=torch.int64, device=images.device)
        self._line = zeros(3, slots)
        self._ids, self._ends, self._shift = self._line
        self._counts = zeros(slots, classifier.num_classes + 1)
        self._cursor = zeros(())
        self._rows = torch.arange(self._size, device=images.device)
        self._noisy = classifier.empty(self._size, images)
        self._invalid = torch.zeros(self._size, dtype=torch.bool, device=images.device)
        if not images.is_cuda:
            settle()
        self._graphs = Graphs(images.device)
        self._recorded_of: Fingerprint | None = None

    def takes(self, images: torch.Tensor) -> bool:
        """Whether the buffers suit these images."""
        here = self._images
        return len(images) <= len(here) and images.shape[1:] == here.shape[1:]

    def count(
        self,
        images: torch.Tensor,
        ids: NDArray[np.int64],
        first: NDArray[np.int64],
        last: NDArray[np.int64],
        stream: int,
    ) -> NDArray[np.int64]:
        """Lay the samples of all images in one line and count along it, batch by batch.

        The host waits for the device once, for the votes. On a GPU they also tell which images the
        noise must not be added to: their sum is far below zero.
        """
        ends = np.cumsum(last - first)
        total, slots = int(ends[-1]), len(images)
        self._images[:slots].copy_(images)
        line = np.zeros((3, len(self._images)), np.int64)
        line[1] = total  # of slots that are not used
        line[:, :slots] = ids, ends, last - ends  # the last: place in the line -> sample id
        _send(self._line, line)
        self._counts.zero_()
        if images.is_cuda:
            self._counts[:slots, -1].masked_fill_(~self._noise.suits(images), _UNSUITED)
        self._cursor.zero_()
        replays, counted = self._readied(stream, total)
        unit = self._forward_rows if self._fixed else 1
        for row in range(counted * self._size, total, self._size):
            if replays:
                self._graphs.replay(stream)
            else:
                self._step(stream, min(self._size, -(-(total - row) // unit) * unit))
        counts: NDArray[np.int64] = self._counts[:slots].cpu().numpy().copy()
        return counts

    def _step(self, stream: int, size: int) -> None:
        row = self._rows[:size] + self._cursor
        slot = torch.searchsorted(self._ends, row, right=True, out_int32=True)
        slot.clamp_(max=len(self._images) - 1)  # the padding of the last batch
        noisy = self._noise.add(
            self._noisy[:size],
            self._invalid[:size],
            self._images,
            slot,
            self._ids.index_select(0, slot),
            row + self._shift.index_select(0, slot),
            stream=stream,
        )
        parts = torch.split(noisy, self._forward_rows)
        passes = [self._classifier.logits(part) for part in parts]
        logits = passes[0] if len(passes) == 1 else torch.cat(passes)
        if self._noise.levels is not None:
            logits = without_ties(logits, self._invalid[:size])
        limit = self._ends[-1] - self._cursor if self._fixed else None
        count_votes(self._counts, logits, slot, limit=limit)
        self._cursor += size

    def _readied(self, stream: int, total: int) -> tuple[bool, int]:
        """Return whether a graph replays the batches of this stream, recorded now if it is new and
        saves time, and how many batches were counted to warm up for it.

        The graphs of a classifier that has changed are forgotten.
        """
        if not self._classifier.graphable:
            return False, 0
        if self._recorded_of is not None and self._classifier.identity() != self._recorded_of:
            self._graphs.clear()
        if stream in self._graphs:
            return True, 0
        if total <= _GRAPH_BATCHES * self._size:
            return False, 0
        self._record(stream)
        return stream in self._graphs, _WARMING_BATCHES

    def _record(self, stream: int) -> None:
        self._recorded_of = self._classifier.identity()
        step = partial(self._step, stream, self._size)
        reason = self._graphs.warm_up(step, _WARMING_BATCHES) or self._graphs.record(stream, step)
        if reason is not None:
            self._classifier.graphable = False
            warnings.warn(
                f"No CUDA graph, each batch is launched from Python: {reason}", stacklevel=2
            )


def _send(to: torch.Tensor, numbers: NDArray[np.int64]) -> None:
    """Copy to the device; the host does not wait for it."""
    host = torch.from_numpy(numbers)
    to.copy_(host.pin_memory() if to.is_cuda else host, non_blocking=True)


def suitable_rows(classifier: Classifier, images: torch.Tensor, limit: int | None) -> int:
    """Return how many rows suit a forward pass, at most `limit`: as many as fill a GPU, or whose
    largest activation is near a CPU's cache.
    """
    if limit is not None and limit <= _FEWEST_ROWS:
        return limit
    most = most_rows(images.device)
    if images.is_cuda:
        rows = _power_of_two(2**26 // images[0].numel(), most=most)
    else:
        rows = _power_of_two(2**21 // _largest_activation(classifier, images), most=most)
    return rows if limit is None else min(rows, limit)


def most_rows(device: torch.device) -> int:
    """Return more rows than which no forward pass gains by."""
    return _MOST_ROWS_ON_GPU if device.type == "cuda" else _MOST_ROWS


def _largest_activation(classifier: Classifier, images: torch.Tensor) -> int:
    """Return the most elements that an operation reads and writes for one image, as far as is
    known: a plain function may refuse a batch of one.
    """
    if not isinstance(classifier.module, torch.nn.Module):
        return 2 * images[0].numel()
    with classifier.running():
        image = classifier.empty(1, images).copy_(images[:1])
        found = _Activations(image)
        with found:
            classifier.module(image)
    return found.largest


class _Activations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation, in scripted code too, and notes its largest input and its output.

    Only what is computed from the image is looked at, and not parameters and views of them.
    """

    def __init__(self, image: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest: int = 2 * image.numel()
        self._computed = {_address(image)}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        inputs = [t for t in _tensors((args, kwargs or {})) if _address(t) in self._computed]
        outputs = _tensors(out)
        if inputs:
            self._computed.update(map(_address, outputs))
            read = max(tensor.numel() for tensor in inputs)
            self.largest = max(self.largest, read + sum(tensor.numel() for tensor in outputs))
        return out


def _tensors(values: object) -> list[torch.Tensor]:
    leaves = torch.utils._pytree.tree_leaves(values)
    return [value for value in leaves if isinstance(value, torch.Tensor)]


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


def _power_of_two(at_most: int, *, most: int) -> int:
    return 1 << (min(max(at_most, _FEWEST_ROWS), most).bit_length() - 1)
