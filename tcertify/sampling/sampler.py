"""Votes of a classifier under Gaussian noise: the only file that calls the kernels.

A noisy image is a pure function of (seed, image id, sample id, stream), so votes depend neither on
the batch size nor on which images share a batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from tcertify._checks import check_positive, check_whole, check_whole_array
from tcertify.classifiers.execution import BaseClassifier, Execution
from tcertify_kernels import add_noise, count_votes

#: Streams of noise that never overlap: choosing the class, certifying it, predicting.
SELECTION, ESTIMATION, PREDICTION = 0, 1, 2

#: Elements of noise for which a kernel's work outweighs the cost of calling it on a CPU.
_KERNEL_ELEMENTS = 2**20

#: A CUDA graph is recorded where there are more batches than this, after the first of them.
_GRAPH_BATCHES, _WARMING_BATCHES = 8, 3

Result = TypeVar("Result")


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
    batch_size : int, optional
        Rows of a forward pass at first: it is halved as often as memory runs out, which changes
        no vote's noise. Memory grows with it, and with nothing else. Without it, one that suits
        the device and the size of an image.
    max_batch_size : int, optional
        Rows of a forward pass at most, where `batch_size` is not given.
    execution : Execution
        Precision, layout and compilation of the classifier.
    frozen : bool
        Nothing about the classifier changes between two calls, so that a CUDA graph of it may be
        kept from one to the next.

    Notes
    -----
    On a CUDA device all batches have the same shape, the positions of their rows are computed on
    the device, and a batch becomes one CUDA graph: between two calls of `count` the host does not
    wait for the device once.
    """

    def __init__(
        self,
        base_classifier: BaseClassifier,
        num_classes: int,
        sigma: float,
        *,
        seed: int = 0,
        batch_size: int | None = None,
        max_batch_size: int | None = None,
        execution: Execution | None = None,
        frozen: bool = False,
    ) -> None:
        if not callable(base_classifier):
            raise TypeError(
                f"`base_classifier` must be a torch module or callable, got {base_classifier!r}."
            )
        self.num_classes = check_whole("num_classes", num_classes, minimum=2)
        self.sigma = check_positive("sigma", sigma)
        self.seed = check_whole("seed", seed, minimum=0, maximum=2**64 - 1)
        self.batch_size = None if batch_size is None else check_whole("batch_size", batch_size)
        self.max_batch_size = (
            None if max_batch_size is None else check_whole("max_batch_size", max_batch_size)
        )
        self.frozen = frozen
        self.execution = Execution() if execution is None else execution
        self.module, self.classifier = self.execution.prepare(base_classifier)
        self.halved = False
        self.graphable = True
        self._batch: _Batch | None = None

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
        if (last < first).any():
            raise ValueError("`stop` must not be below `start`.")
        if slots == 0:
            return np.zeros((0, self.num_classes + 1), np.int64)

        def counted() -> NDArray[np.int64]:
            with self.execution.running(self.classifier, images.device):
                return self._fitting_batch(images).count(images, ids, first, last, stream)

        return self.fitting(images, counted)

    def noisy(self, images: torch.Tensor, image_ids: ArrayLike, stream: int) -> torch.Tensor:
        """Return one noisy copy of each image, as the classifier is given it: sample 0."""
        slots, device = len(images), images.device
        return add_noise(
            self.execution.empty(slots, images),
            images.float().contiguous(),
            torch.arange(slots, dtype=torch.int32, device=device),
            torch.from_numpy(check_whole_array("image_ids", image_ids)).to(device),
            torch.zeros(slots, dtype=torch.int64, device=device),
            sigma=self.sigma,
            seed=self.seed,
            stream=stream,
        )

    def logits(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the classifier's logits (B, C) for noisy images (B, ...), checked."""
        with self.execution.running(self.classifier, batch.device):
            return self.classify(batch)

    def classify(self, batch: torch.Tensor) -> torch.Tensor:
        """Return `logits` where the classifier is running already."""
        return check_logits(self.classifier(batch), len(batch), self.num_classes)

    def fixed_shape(self, images: torch.Tensor) -> bool:
        """Whether all batches have one shape, as CUDA graphs and compiled code need."""
        return images.is_cuda or self.execution.compile

    def fitting(self, images: torch.Tensor, work: Callable[[], Result]) -> Result:
        """Return ``work()``, with the batch size halved as often as memory runs out."""
        if self.batch_size is None:
            with self.execution.running(self.classifier, images.device):
                image = self.execution.empty(1, images).copy_(images[:1])
                suited = _default_batch_size(self.module, image)
            self.batch_size = min(suited, self.max_batch_size or suited)
        while True:
            try:
                return work()
            except Exception as error:
                if self.batch_size == 1 or not is_out_of_memory(error):
                    raise
            # Only here is the traceback gone, which held the tensors that did not fit.
            self.batch_size //= 2
            self.halved = True
            self._batch = None
            if images.is_cuda:
                torch.cuda.empty_cache()

    def _fitting_batch(self, images: torch.Tensor) -> _Batch:
        """Return the buffers, those of the call before where they are large enough."""
        if self._batch is None or not self._batch.takes(images):
            self._batch = None  # freed before the next is made
            self._batch = _Batch(self, images)
        if not self.frozen:
            self._batch.graphs.clear()
        return self._batch


class _Batch:
    """The buffers of one batch, and the step that fills them, classifies them and counts."""

    def __init__(self, sampler: Sampler, images: torch.Tensor) -> None:
        assert sampler.batch_size is not None
        self._sampler = sampler
        self._fixed = sampler.fixed_shape(images)
        # On a CPU several small forward passes share one call of each kernel.
        elements = sampler.batch_size * images[0].numel()
        passes = 1 if images.is_cuda else max(1, _KERNEL_ELEMENTS // elements)
        self._forward_rows = sampler.batch_size
        self._size = passes * self._forward_rows
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        slots = 1 << (len(images) - 1).bit_length()  # as more may come, but not many times
        self._images = torch.zeros(slots, *images.shape[1:], device=images.device)
        zeros = partial(torch.zeros, dtype=torch.int64, device=images.device)
        self._ids = zeros(slots)
        self._ends = zeros(slots)
        self._shift = zeros(slots)
        self._counts = zeros(slots, sampler.num_classes + 1)
        self._cursor = zeros(())
        self._rows = torch.arange(self._size, device=images.device)
        self._noisy = sampler.execution.empty(self._size, images)
        if not images.is_cuda:
            _keep_freed_memory()

    def takes(self, images: torch.Tensor) -> bool:
        here = self._images
        fits = len(images) <= len(here) and images.shape[1:] == here.shape[1:]
        return fits and images.device == here.device

    def count(
        self,
        images: torch.Tensor,
        ids: NDArray[np.int64],
        first: NDArray[np.int64],
        last: NDArray[np.int64],
        stream: int,
    ) -> NDArray[np.int64]:
        """Lay the samples of all images in one line and count along it, batch by batch."""
        ends = np.cumsum(last - first)
        total, slots = int(ends[-1]), len(images)
        self._images[:slots].copy_(images)
        self._ids[:slots].copy_(torch.from_numpy(ids.copy()))
        self._ends.fill_(total)[:slots].copy_(torch.from_numpy(ends))
        self._shift.zero_()[:slots].copy_(
            torch.from_numpy(last - ends)
        )  # place in the line -> sample id
        self._counts.zero_()
        self._cursor.zero_()
        rows = iter(range(0, total, self._size))
        step = self._replayed(stream, rows) if self._worth_a_graph(stream, total) else self._step
        unit = self._forward_rows if self._fixed else 1
        for row in rows:
            step(stream, min(self._size, -(-(total - row) // unit) * unit))
        counts: NDArray[np.int64] = self._counts[:slots].cpu().numpy().copy()
        return counts

    def _step(self, stream: int, size: int) -> None:
        sampler = self._sampler
        row = self._rows[:size] + self._cursor
        slot = torch.searchsorted(self._ends, row, right=True, out_int32=True)
        slot.clamp_(max=len(self._images) - 1)  # the padding of the last batch
        noisy = add_noise(
            self._noisy[:size],
            self._images,
            slot,
            self._ids.index_select(0, slot),
            row + self._shift.index_select(0, slot),
            sigma=sampler.sigma,
            seed=sampler.seed,
            stream=stream,
        )
        passes = [sampler.classify(part) for part in torch.split(noisy, self._forward_rows)]
        logits = passes[0] if len(passes) == 1 else torch.cat(passes)
        limit = self._ends[-1] - self._cursor if self._fixed else None
        count_votes(self._counts, logits, slot, limit=limit)
        self._cursor += size

    def _worth_a_graph(self, stream: int, total: int) -> bool:
        worth = stream in self.graphs or total > _GRAPH_BATCHES * self._size
        return self._images.is_cuda and self._sampler.graphable and worth

    def _replayed(self, stream: int, rows: Iterator[int]) -> Callable[[int, int], None]:
        """Return a step that replays the CUDA graph of this stream of noise. If it is new, the
        first of the batches that begin at `rows` warm up for it, and count.
        """
        if stream not in self.graphs:
            self._warm_up(stream, rows)
            try:
                self.graphs[stream] = self._recorded(stream)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                self._sampler.graphable = False
                warnings.warn(
                    f"No CUDA graph, each batch is launched from Python: {error}", stacklevel=2
                )
                return self._step
        graph = self.graphs[stream]
        return lambda stream, size: graph.replay()

    def _warm_up(self, stream: int, rows: Iterator[int]) -> None:
        """Run batches on a side stream, as recording requires: they settle libraries and memory."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in islice(rows, _WARMING_BATCHES):
                self._step(stream, self._size)
        torch.cuda.current_stream().wait_stream(side)

    def _recorded(self, stream: int) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # Other threads load images meanwhile, and may use the device.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._step(stream, self._size)
        return graph


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
    """Return `logits`, contiguous, if they are a real float tensor (rows, num_classes)."""
    expected = f"The base classifier must return float logits of shape ({rows}, {num_classes})"
    if not isinstance(logits, torch.Tensor):
        raise ValueError(f"{expected}, got {type(logits).__name__}.")
    if tuple(logits.shape) != (rows, num_classes) or not logits.is_floating_point():
        raise ValueError(f"{expected}, got {tuple(logits.shape)} of {logits.dtype}.")
    if logits.dtype == torch.float64:
        raise ValueError(f"{expected} in float32, bfloat16 or float16, got float64.")
    return logits.contiguous()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is one of torch's, CuPy's or the system's out-of-memory errors."""
    # CuPy's class derives from MemoryError; torch's allocator on the CPU has no class of its own.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _default_batch_size(classifier: BaseClassifier, images: torch.Tensor) -> int:
    """Return a power of two that fills a GPU, or whose largest activation is near a CPU's cache."""
    if images.is_cuda:
        return _power_of_two(2**26 // images[0].numel(), most=2**14)
    return _power_of_two(2**21 // _largest_activation(classifier, images[:1]), most=2**10)


def _largest_activation(classifier: BaseClassifier, image: torch.Tensor) -> int:
    """Return the most elements that a submodule reads and writes for one image."""
    sizes = [2 * image.numel()]

    def note(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        tensors = [t for t in (*inputs, output) if isinstance(t, torch.Tensor)]
        sizes.append(sum(t.numel() for t in tensors))

    if isinstance(classifier, torch.nn.Module):
        hooks = [module.register_forward_hook(note) for module in classifier.modules()]
        try:
            classifier(image)
        finally:
            for hook in hooks:
                hook.remove()
    return max(sizes)


def _keep_freed_memory() -> None:
    """Have the C library keep what one forward pass frees for the next.

    glibc gives freed memory back to the system above a limit of twice the largest block that it
    has mapped and unmapped so far, and each pass would fault its activations in again. One such
    block of 32 MiB, never touched, raises the limit to 64 MiB; elsewhere nothing happens. Where
    there is no room for it, time is lost and nothing else.
    """
    try:
        torch.empty(2**25 - 2**16, dtype=torch.uint8)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise


def _power_of_two(at_most: int, *, most: int) -> int:
    return 1 << (min(max(at_most, 32), most).bit_length() - 1)
