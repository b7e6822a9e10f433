"""CUDA graphs: one batch, launched by a single call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tcertify.sampling.memory import is_out_of_memory

Step = Callable[[], None]


class Graphs:
    """The graphs of the steps of one batch, one for each stream of noise.

    All share one pool of memory, as no two of them run at once. Everything happens on the device
    of the images, whichever is the current one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._side: torch.cuda.Stream | None = None
        self._pool: Any = None

    def __contains__(self, stream: int) -> bool:
        return stream in self._graphs

    def clear(self) -> None:
        """Forget all graphs."""
        self._graphs.clear()

    def replay(self, stream: int) -> None:
        """Run the step that was recorded for a stream of noise."""
        self._graphs[stream].replay()

    def warm_up(self, step: Step, batches: int) -> str | None:
        """Run some batches on the side stream, as recording requires: they settle libraries and
        memory. Return None, or why the step cannot be recorded.

        In the last of them the host may not wait for the device. What breaks this would break a
        recording, after which torch's stream, generator and allocator are left in disorder: so
        none is begun. Such a batch has not been counted, and is run again.
        """
        with self._on_side():
            for _ in range(batches - 1):
                step()
            try:
                with _not_waiting():
                    step()
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                reason = str(error)
            else:
                return None
            step()
        return reason

    def record(self, stream: int, step: Step) -> str | None:
        """Record a step that has been warmed up, without running it; return None, or why not."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        before = torch.cuda.current_stream(self._device)
        try:
            # Other threads load images meanwhile, and may use the device.
            with torch.cuda.graph(graph, self._pool, self._side, capture_error_mode="thread_local"):
                step()
        except RuntimeError as error:
            torch.cuda.set_stream(before)  # torch leaves its own where ending the recording fails
            if is_out_of_memory(error):
                raise
            return str(error)
        self._graphs[stream] = graph
        return None

    @contextmanager
    def _on_side(self) -> Iterator[None]:
        side = self._side = self._side or torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream(self._device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            yield
        current.wait_stream(side)


@contextmanager
def _not_waiting() -> Iterator[None]:
    """Make an error of whatever lets the host wait for the device."""
    before = torch.cuda.get_sync_debug_mode()
    _set_sync_debug_mode("error")
    try:
        yield
    finally:
        _set_sync_debug_mode(before)


def _set_sync_debug_mode(mode: int | str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode is a prototype
        torch.cuda.set_sync_debug_mode(mode)
