"""One image over several workers: its samples are cut, and the votes of the pieces added."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from tcertify.cluster.pool import Pool, Task
from tcertify.cluster.worker import Outcome
from tcertify.sampling.defects import Defect

#: Pieces for each worker, so that none waits long for the last; each of so many batches at least.
_PIECES, _BATCHES = 4, 4


class ClusterCaster:
    """Casts votes as a `Sampler` does, on all workers of a pool together.

    Parameters
    ----------
    pool : Pool
    batch_rows, workers : int
        Rows of a worker's forward pass, and how many workers there are.
    num_classes : int
    on_answer : callable
        Takes each answer of a worker.
    """

    def __init__(
        self,
        pool: Pool,
        path: Path,
        batch_rows: int,
        workers: int,
        num_classes: int,
        on_answer: Any,
    ) -> None:
        self.batch_size: int | None = batch_rows * workers
        self._pool, self._path, self._on_answer = pool, path, on_answer
        self._rows, self._workers, self._classes = batch_rows, workers, num_classes

    def count(
        self,
        images: torch.Tensor,
        image_ids: ArrayLike,
        start: ArrayLike,
        stop: ArrayLike,
        stream: int,
    ) -> NDArray[np.int64]:
        """Count votes as `Sampler.count` does.

        Raises
        ------
        RuntimeError
            A piece failed as often as a task may.
        """
        ids = np.asarray(image_ids, np.int64)
        first, last = (np.broadcast_to(np.asarray(x, np.int64), len(ids)) for x in (start, stop))
        total = int((last - first).sum())
        least = _BATCHES * self._rows
        size = max(least, -(-total // (_PIECES * self._workers)))
        pieces = iter([*cut(first, last, size)])
        slots_of: dict[Task, list[int]] = {}

        def supply() -> Task | None:
            piece = next(pieces, None)
            if piece is None:
                return None
            slots, starts, stops = (list(column) for column in zip(*piece, strict=True))
            task = Task(
                "count",
                (self._path, images[slots].numpy(), ids[slots].tolist(), starts, stops, stream),
                f"{sum(stops) - sum(starts)} samples of image {ids[slots[0]]}",
                sum(stops) - sum(starts),
            )
            slots_of[task] = slots
            return task

        votes = np.zeros((len(ids), self._classes + 1), np.int64)
        for task, outcome in self._done(supply):
            votes[slots_of[task]] += outcome.value
        return votes

    def recheck(
        self, _: Any, images: torch.Tensor, image_ids: ArrayLike, first: int, stream: int
    ) -> list[Defect]:
        """Have one worker cast votes again; return what differs by more than rounding."""
        ids = np.asarray(image_ids).tolist()
        arguments = (self._path, images.numpy(), ids, stream)
        tasks = iter([Task("recheck", arguments, "votes cast again", 1.0)])
        return [
            defect for _, found in self._done(lambda: next(tasks, None)) for defect in found.value
        ]

    def _done(self, supply: Any) -> Iterator[tuple[Task, Outcome]]:
        given_up = len(self._pool.given_up)
        for task, hand, outcome in self._pool.run(supply):
            self._on_answer(task, hand, outcome)
            if outcome.failed is None:
                yield task, outcome
        for task in self._pool.given_up[given_up:]:
            raise RuntimeError(f"{task.name} failed {len(task.reasons)} times: {task.reasons[-1]}")


def cut(
    start: NDArray[np.int64], stop: NDArray[np.int64], size: int
) -> Iterator[list[tuple[int, int, int]]]:
    """Yield pieces of `size` samples, the last with fewer: lists of (slot, start, stop)."""
    piece: list[tuple[int, int, int]] = []
    room = size
    for slot, (at, end) in enumerate(zip(start.tolist(), stop.tolist(), strict=True)):
        while at < end:
            taken = min(room, end - at)
            piece.append((slot, at, at + taken))
            at, room = at + taken, room - taken
            if not room:
                yield piece
                piece, room = [], size
    if piece:
        yield piece
