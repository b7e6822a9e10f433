"""Clocks for benchmarks: processor time on the CPU, CUDA events on a device, and CUDA graphs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

#: A reading of the device's clock takes at least this long: what begins and ends it is then small.
SECONDS_OF_A_READING = 0.02


class DeviceClock:
    """A timer on the device's own clock, in seconds; reading it waits for the current stream."""

    def __init__(self) -> None:
        self._last: Any = None
        self._seconds = 0.0

    def __call__(self) -> float:
        """Return the device's seconds since the first reading."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        event.synchronize()
        if self._last is not None:  # events tell milliseconds in float32: exact over short times
            self._seconds += self._last.elapsed_time(event) / 1e3
        self._last = event
        return self._seconds


class ClockOfOneCall:
    """A timer for pytest-benchmark that shows the time of one call where `calls` are made at once:
    what lies between two readings is divided by it.
    """

    def __init__(self) -> None:
        self.calls = 1
        self._clock = clock_of("cuda" if torch.cuda.is_available() else "cpu")
        self._last = 0.0
        self._seconds = 0.0

    def __call__(self) -> float:
        """Return seconds, by `calls`."""
        now = self._clock()
        self._seconds += (now - self._last) / self.calls
        self._last = now
        return self._seconds


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


def in_turn(work: Callable[[Any], object], cases: Sequence[Any]) -> Callable[[], None]:
    """One call for each case, launched from Python."""

    def calls() -> None:
        for case in cases:
            work(case)

    return calls


def graph_of(work: Callable[[Any], object], cases: Sequence[Any]) -> torch.cuda.CUDAGraph:
    """A CUDA graph of one call for each case. Random numbers are drawn anew in each replay."""
    for case in cases[:2]:
        work(case)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for case in cases:
            work(case)
    return graph


def repeats(seconds: float) -> int:
    """How often something that takes `seconds` is done in one reading of a clock."""
    return max(1, math.ceil(SECONDS_OF_A_READING / seconds))


def graph_seconds(work: Callable[[Any], object], cases: Sequence[Any], rounds: int) -> float:
    """The shortest time of one call on the device, without the host: a CUDA graph of all cases,
    replayed for at least 20 ms a reading.
    """
    graph = graph_of(work, cases)
    once = best_seconds(lambda _: graph.replay(), [None], "cuda", 3)
    many = [None] * repeats(once)
    return best_seconds(lambda _: graph.replay(), many, "cuda", rounds) / len(cases)
