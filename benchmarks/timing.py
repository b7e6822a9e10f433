"""Clocks for benchmarks: processor time on the CPU, CUDA events on a device, and CUDA graphs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch


class DeviceClock:
    """A timer on the device's own clock, in seconds; reading it waits for the current stream."""

    def __init__(self) -> None:
        self.start: Any = None

    def __call__(self) -> float:
        """Return the device's seconds since the first reading."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        event.synchronize()
        if self.start is None:
            self.start = event
        return float(self.start.elapsed_time(event)) / 1e3


def clock_of(device: str) -> Callable[[], float]:
    """The clock for work on a device: the process's own time on the CPU, which is often shared."""
    return DeviceClock() if device == "cuda" else time.process_time


def best_seconds(
    work: Callable[[Any], object], cases: Sequence[Any], device: str, rounds: int
) -> float:
    """The shortest time of one call, from `rounds` passes over `cases` after a first, warming one.

    On a device, cases that are larger than its cache together measure its memory.
    """
    clock, found = clock_of(device), []
    for round_ in range(rounds + 1):
        before = clock()
        for case in cases:
            work(case)
        if round_:
            found.append((clock() - before) / len(cases))
    return min(found)


def graph_seconds(work: Callable[[Any], object], cases: Sequence[Any], rounds: int) -> float:
    """The shortest time of one call on the device, without the host: a CUDA graph of all cases.

    Random numbers are drawn anew in each replay.
    """
    for case in cases[:2]:
        work(case)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for case in cases:
            work(case)
    return best_seconds(lambda _: graph.replay(), [None], "cuda", rounds) / len(cases)
