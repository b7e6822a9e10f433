"""Votes of a classifier under noise, several images in a batch.

A noisy image is a pure function of (seed, image id, sample id, stream), so votes depend neither on
the batch size nor on which images share a batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from tcertify._checks import check_whole, check_whole_array
from tcertify.classifiers.classifier import Classifier
from tcertify.errors import VotesLostError
from tcertify.sampling.batch import Batch, suitable_rows
from tcertify.sampling.memory import free_memory, is_out_of_memory, kept
from tcertify.sampling.noise import Noise

#: Elements of noise for which memory is kept: for fewer, some 10 ms to give it back weigh more.
_KEPT_ELEMENTS = 2**22

Result = TypeVar("Result")


class Sampler:
    """Counts the votes of a base classifier under noise, several images in a batch.

    Several threads may share one: they take turns.

    Parameters
    ----------
    classifier : Classifier
    noise : Noise
    batch_size : int, optional
        Rows of a forward pass at most; fewer where that suits the device and the network better.
        It is halved each time memory runs out; the noise stays the same. Memory grows with it, and
        with nothing else.
    rows : int, optional
        Rows of a forward pass as they were measured or recorded, whatever suits.

    Attributes
    ----------
    batch_size : int or None
        Rows of a forward pass, once the first images have been seen.
    halved : bool
        Whether memory ran out.

    Notes
    -----
    On a CUDA device all batches have the same shape, the positions of their rows are computed on
    the device, and a batch becomes one CUDA graph: in a call of `count` that records none the host
    waits for the device once, for the votes, and learns with them whether an image was not finite
    or not on the grid. Buffers and graphs are kept from one call to the next, and go with the
    sampler. A graph is recorded anew when parameters or buffers have moved or an attribute of
    a module, or a value that a function holds, is another one; values that change in place are
    seen by the graph itself.
    """

    def __init__(
        self,
        classifier: Classifier,
        noise: Noise,
        *,
        batch_size: int | None = None,
        rows: int | None = None,
    ) -> None:
        self.classifier = classifier
        self.noise = noise
        self.batch_size = None if rows is None else check_whole("rows", rows)
        self.halved = False
        self._limit = None if batch_size is None else check_whole("batch_size", batch_size)
        self._batch: Batch | None = None
        self._lock = threading.RLock()

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
            `SELECTION`, `ESTIMATION`, `PREDICTION`, `VALIDATION` or `DRAWN`.

        Returns
        -------
        int64 array (S, C + 1)
            Votes for each class; the last column holds invalid votes (NaN logits, and under
            integer noise the draws that tie, of which there is one in some 10^16 pixels).

        Raises
        ------
        ValueError
            Arguments out of range, or images that the noise must not be added to.
        VotesLostError
            The votes of an image are not as many as its samples.
        """
        self.classifier.check_type(images)
        looked_at = not images.is_cuda  # where the host would wait, the votes tell
        if looked_at:
            self.classifier.check_finite(images)
        slots = len(images)
        ids = np.broadcast_to(check_whole_array("image_ids", image_ids, maximum=2**32 - 1), slots)
        first = np.broadcast_to(check_whole_array("start", start), slots)
        last = np.broadcast_to(check_whole_array("stop", stop), slots)
        if (last < first).any():
            raise ValueError("`stop` must not be below `start`.")
        if slots == 0:
            return np.zeros((0, self.classifier.num_classes + 1), np.int64)
        if looked_at:
            self.noise.check(images, ids.tolist())

        def counted() -> NDArray[np.int64]:
            with self.classifier.running():
                return self._fitting_batch(images).count(images, ids, first, last, stream)

        elements = int((last - first).sum()) * images[0].numel()
        worth = self.classifier.device.type == "cpu" and elements >= _KEPT_ELEMENTS
        with kept() if worth else nullcontext():
            counts = self.fitting(images, counted)
        wrong = np.flatnonzero(counts.sum(1) != last - first)
        if wrong.size:
            self.classifier.check_finite(images)
            self.noise.check(images, ids.tolist())
            at = wrong[0]
            raise VotesLostError(
                f"Image {ids[at]} got {counts[at].sum()} votes for {last[at] - first[at]} samples:"
                " nothing can be certified from them."
            )
        return counts

    def fitting(self, images: torch.Tensor, work: Callable[[], Result]) -> Result:
        """Return ``work()``, with the batch size halved each time memory runs out."""
        with self._lock:
            if self.batch_size is None:
                self.batch_size = suitable_rows(self.classifier, images, self._limit)
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
                free_memory(images.device)

    def _fitting_batch(self, images: torch.Tensor) -> Batch:
        """Return the buffers, those of the call before where they are large enough."""
        assert self.batch_size is not None
        if self._batch is None or not self._batch.takes(images):
            self._batch = None  # freed before the next is made
            self._batch = Batch(self.classifier, self.noise, images, self.batch_size)
        return self._batch
