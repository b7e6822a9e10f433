"""What only a GPU can show of the kernels: equality of bits, bandwidth, launches."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from benchmarks.implementations import (
    NOISE_ON_A_DEVICE,
    VOTES,
    check_noise,
    check_votes,
    noise_case,
    vote_case,
)
from benchmarks.timing import best_seconds, graph_seconds
from tcertify_kernels import add_integer_noise, add_noise, count_votes

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

Report = dict[str, Any]


@dataclass
class Bench:
    """A device, and the scale of what runs on it: in miniature on a CPU, whose times mean
    nothing.
    """

    device: str

    @property
    def small(self) -> bool:
        """Whether this is a rehearsal."""
        return self.device == "cpu"

    @property
    def rounds(self) -> int:
        """How often a short thing is timed."""
        return 1 if self.small else 20

    @cached_property
    def bandwidth(self) -> dict[str, float]:
        """What memory gives at best: bytes per second of fill, read (a sum) and copy."""
        size = 2**16 if self.small else 2**28
        a, b = (torch.zeros(size, device=self.device) for _ in range(2))
        seconds = {
            "fill": self.best(lambda _: a.fill_(1.0)),
            "read": self.best(lambda _: torch.sum(a)),
            "copy": self.best(lambda _: b.copy_(a)),
        }
        moved = {"fill": 4 * size, "read": 4 * size, "copy": 8 * size}
        return {name: moved[name] / seconds[name] for name in seconds}

    def synchronize(self) -> None:
        """Wait for the device."""
        if not self.small:
            torch.cuda.synchronize()

    def best(
        self, work: Callable[[Any], object], cases: Any = (None,), rounds: int | None = None
    ) -> float:
        """Seconds of one call, launched from Python."""
        return best_seconds(work, cases, self.device, rounds or self.rounds)

    def best_in_a_graph(self, work: Callable[[Any], object], cases: Any) -> float:
        """Seconds of one call on the device alone: all cases are one CUDA graph."""
        if self.small:
            return self.best(work, cases)
        return graph_seconds(work, cases, self.rounds)


def ceilings(bench: Bench) -> Report:
    """What memory gives at best: bytes per second of fill, read (a sum) and copy."""
    return bench.bandwidth


def known_answers(bench: Bench) -> bool:
    """Random123's known answers for philox.cuh, compiled for the device."""
    from tests.kernels.known_answers import KNOWN_ANSWERS

    words_of = _words_of_twin if bench.small else _words_of_device
    return all(words_of(counter, key) == words for counter, key, words in KNOWN_ANSWERS)


def bits(bench: Bench) -> Report:
    """Noise and votes of the device against those of the CPU twins: how many differ."""
    shapes = [(3, 32, 32), (3, 5, 7), (1, 8, 8), (2, 3, 3)]
    if not bench.small:
        shapes += [(3, 224, 224)]
    differ, elements = 0, 0
    for shape, dtype, last in itertools.product(shapes, DTYPES, (False, True)):
        rows = 7 if bench.small else 64
        for bits_of in (_noise_bits, _integer_bits):
            found = bits_of(bench.device, rows, shape, dtype, last)
            expected = bits_of("cpu", rows, shape, dtype, last)
            differ += int((found.cpu() != expected).sum())
            elements += expected.numel()
    votes_differ = 0
    for classes, dtype in itertools.product((2, 10, 100, 1000, 21_841), DTYPES):
        case = vote_case(50 if bench.small else 2000, classes, dtype, "cpu")
        case.logits[::7] = case.logits[::7].round()
        case.logits[3, 1] = math.nan
        expected = count_votes(case.counts.clone(), case.logits, case.slot)
        moved = (t.to(bench.device) for t in (case.counts, case.logits, case.slot))
        votes_differ += int((count_votes(*moved).cpu() != expected).sum())
    return {"elements": elements, "differ": differ, "counts_that_differ": votes_differ}


def _noise_bits(
    device: str, rows: int, shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool
) -> torch.Tensor:
    case = noise_case((rows, *shape), dtype, device, channels_last)
    arrays = case.out, case.x, case.slot, case.image + 2**32 - 1, case.sample + 2**40
    return add_noise(*arrays, sigma=0.3, seed=2**63 + 1, stream=1)


def _integer_bits(
    device: str, rows: int, shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool
) -> torch.Tensor:
    case = noise_case((rows, *shape), dtype, device, channels_last)
    arrays = case.out, case.invalid, case.x, case.slot, case.image + 2**32 - 1, case.sample + 2**40
    return add_integer_noise(*arrays, sigma=0.3, levels=255, seed=2**63 + 1, stream=1)


#: The batches of CIFAR-10 and ImageNet that predictions are made for (docs/performance.md).
SHAPES = ((1000, 3, 32, 32), (256, 3, 224, 224))


def cases_of(bench: Bench, shape: tuple[int, ...], dtype: torch.dtype, last: bool) -> list[Any]:
    """Batches that are together larger than any cache, and so lie in memory."""
    size = math.prod(shape) * dtype.itemsize
    copies = 2 if bench.small else max(2, 2**29 // size)
    return [noise_case(shape, dtype, bench.device, last) for _ in range(copies)]


def noise(bench: Bench) -> list[Report]:
    """Noise over shapes, dtypes and layouts: ours, torch's operations, the field's path, normals
    alone, each without the cost of launching it.
    """
    shapes = ((10, 3, 32, 32),) if bench.small else SHAPES
    table = []
    for shape, dtype, last in itertools.product(shapes, DTYPES, (False, True)):
        cases = cases_of(bench, shape, dtype, last)
        row: Report = {"shape": shape, "dtype": str(dtype), "channels_last": last}
        for name in ("ours", "ours, integer", "torch", "field", "normals"):
            check_noise(cases[0], NOISE_ON_A_DEVICE[name](cases[0]), name)
            row[f"{name}_microseconds"] = 1e6 * bench.best_in_a_graph(
                NOISE_ON_A_DEVICE[name], cases
            )
        written = math.prod(shape) * dtype.itemsize / (row["ours_microseconds"] / 1e6)
        row["ours_of_fill_bandwidth"] = written / bench.bandwidth["fill"]
        row["field_over_ours"] = row["field_microseconds"] / row["ours_microseconds"]
        row["normals_over_ours"] = row["normals_microseconds"] / row["ours_microseconds"]
        table.append(row)
    return table


def votes(bench: Bench) -> list[Report]:
    """Votes over numbers of classes and dtypes: ours without launching, and, as the host has to
    wait in them, torch's operations and the field's loop with everything.
    """
    table = []
    for classes, dtype in itertools.product((10, 1000, 21_841), DTYPES):
        rows = 20 if bench.small else min(2**28 // classes, 1_000_000)
        copies = 2 if bench.small else max(2, 2**28 // (rows * classes))
        cases = [vote_case(rows, classes, dtype, bench.device)]
        cases += [replace(cases[0], logits=cases[0].logits.clone()) for _ in range(copies - 1)]
        row: Report = {"rows": rows, "classes": classes, "dtype": str(dtype)}
        for name in ("ours", "torch", "field"):
            before = cases[0].counts.clone()
            check_votes(cases[0], before, VOTES[name](cases[0]))
        row["ours_microseconds"] = 1e6 * bench.best_in_a_graph(VOTES["ours"], cases)
        row["torch_microseconds"] = 1e6 * bench.best(VOTES["torch"], cases)
        row["field_microseconds"] = 1e6 * bench.best(VOTES["field"], cases[:1], 1)
        read = cases[0].logits.nbytes / (row["ours_microseconds"] / 1e6)
        row["ours_of_read_bandwidth"] = read / bench.bandwidth["read"]
        table.append(row)
    return table


def launches(bench: Bench) -> Report:
    """Microseconds of the host to launch our kernels on a small batch, or a graph of both."""
    noisy = noise_case((8, 3, 32, 32), torch.float32, bench.device)
    vote = vote_case(8, 10, torch.float32, bench.device)

    def step(_: object = None) -> None:
        NOISE_ON_A_DEVICE["ours"](noisy)
        VOTES["ours"](vote)

    step()
    found = {
        "noise_microseconds": _host_microseconds(bench, lambda: NOISE_ON_A_DEVICE["ours"](noisy)),
        "votes_microseconds": _host_microseconds(bench, lambda: VOTES["ours"](vote)),
    }
    if not bench.small:
        eager = noisy.out.clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        noisy.out.fill_(math.nan)
        graph.replay()
        torch.cuda.synchronize()
        found["graph_equals_eager"] = torch.equal(noisy.out, eager)
        found["graph_microseconds"] = _host_microseconds(bench, graph.replay)
    return found


def _host_microseconds(bench: Bench, work: Callable[[], object], repeats: int = 300) -> float:
    """The host's time for one call, while the device keeps up."""
    found = []
    for _ in range(3):
        bench.synchronize()
        before = time.perf_counter()
        for _ in range(repeats):
            work()
        found.append((time.perf_counter() - before) / repeats)
    return 1e6 * min(found)


def probe(device: str, shapes: tuple[tuple[int, ...], ...], rows: int) -> None:
    """Launch each kernel once, for the tools that watch a process."""
    for dtype, last in itertools.product(DTYPES, (False, True)):
        for shape, name in itertools.product(shapes, ("ours", "ours, integer")):
            NOISE_ON_A_DEVICE[name](noise_case(shape, dtype, device, last))
        for classes in (10, 1000):
            VOTES["ours"](vote_case(rows, classes, dtype, device))


#: What is probed: whole groups and ragged rows, small; or the batches of the predictions.
PROBES = {"small": (((8, 3, 16, 16), (5, 3, 5, 7)), 70), "large": (SHAPES, 100_000)}


def _words_of_twin(counter: list[int], key: list[int]) -> list[int]:
    import numpy as np

    from tcertify_kernels import _noise_numba

    return [int(word) for word in _noise_numba.philox(*map(np.uint32, (*counter, *key)))]


def _words_of_device(counter: list[int], key: list[int]) -> list[int]:
    """Philox's words by a kernel around philox.cuh."""
    import cupy
    import numpy as np

    from tcertify_kernels import _cuda

    code = _cuda.source("noise") + (
        'extern "C" __global__ void words(u32 a, u32 b, u32 c, u32 d, u32 k0, u32 k1, uint4* out)\n'
        "{ *out = philox(make_uint4(a, b, c, d), k0, k1); }\n"
    )
    out = torch.zeros(4, dtype=torch.int32, device="cuda")
    torch.cuda.synchronize()
    arguments = (*map(np.uint32, (*counter, *key)), out.data_ptr())
    cupy.RawKernel(code, "words")((1,), (1,), arguments)
    cupy.cuda.runtime.deviceSynchronize()
    return [word & 0xFFFFFFFF for word in out.tolist()]
