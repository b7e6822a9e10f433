"""Throughput of the kernels on a device: noise and votes, against torch's, CuPy's and the field's.

    python -m pytest benchmarks/test_throughput.py --benchmark-enable --benchmark-json=FILE

Each result is checked first. Many calls are timed together over batches that no cache holds,
launched one by one from Python ("eager") or as one CUDA graph ("graph"); a reading takes at least
20 ms, and its clock shows one call. Below pytest-benchmark's table, and in `extra_info` of its
JSON: samples per second, GB/s, and the percent of the bandwidth of a fill (noise) or a sum (votes).
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from benchmarks.gpu_kernels import SHAPES, Bench, cases_of
from benchmarks.implementations import (
    NOISE_ON_A_DEVICE,
    VOTES_ON_A_DEVICE,
    check_noise,
    check_votes,
    vote_case,
)
from benchmarks.timing import ClockOfOneCall, best_seconds, graph_of, in_turn, repeats

CLOCK = ClockOfOneCall()
DTYPES = (torch.float32, torch.bfloat16)
MODES = ("eager", "graph")


@pytest.fixture(scope="module")
def bench():
    return Bench("cuda")


def figures(seconds, samples, moved, ceiling):
    """What a call that takes `seconds` for `samples` rows and `moved` bytes comes to."""
    return {
        "samples per second": samples / seconds,
        "GB/s": moved / seconds / 1e9,
        "percent of bandwidth": 100 * moved / seconds / ceiling,
    }


def measure(benchmark, bench, mode, work, cases, samples, moved, ceiling):
    """Time a call of `work`, and put its figures into `extra_info`."""
    graph = mode == "graph" and not bench.small
    calls = graph_of(work, cases).replay if graph else in_turn(work, cases)
    times = repeats(best_seconds(lambda _: calls(), [None], bench.device, 3))
    CLOCK.calls = len(cases)
    benchmark.pedantic(calls, rounds=bench.rounds, warmup_rounds=1, iterations=times)
    if benchmark.enabled:
        found = figures(benchmark.stats.stats.min, samples, moved, bench.bandwidth[ceiling])
        benchmark.extra_info.update(found)


def noise(benchmark, bench, shape, dtype, channels_last, mode, name):
    layout = "channels-last" if channels_last else "contiguous"
    benchmark.group = f"noise {shape} {dtype} {layout}, {mode}"
    benchmark.name = name
    work, cases = NOISE_ON_A_DEVICE[name], cases_of(bench, shape, dtype, channels_last)
    check_noise(cases[0], work(cases[0]), name)
    written = math.prod(shape) * dtype.itemsize
    measure(benchmark, bench, mode, work, cases, shape[0], written, "fill")


def votes(benchmark, bench, rows, classes, dtype, mode, name):
    benchmark.group = f"votes {rows} x {classes} {dtype}, {mode}"
    benchmark.name = name
    work, case = VOTES_ON_A_DEVICE[name], vote_case(rows, classes, dtype, bench.device)
    copies = 2 if bench.small else max(2, 2**29 // case.logits.nbytes)
    cases = [replace(case, logits=case.logits.clone()) for _ in range(copies)]
    before = case.counts.clone()
    check_votes(case, before, work(case))
    measure(benchmark, bench, mode, work, cases, rows, case.logits.nbytes, "read")


@pytest.mark.gpu
@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NOISE_ON_A_DEVICE)
def test_noise(benchmark, bench, shape, dtype, channels_last, mode, name):
    if name == "cupy normals" and (dtype != torch.float32 or channels_last):
        pytest.skip("CuPy writes float32 in C order")
    noise(benchmark, bench, shape, dtype, channels_last, mode, name)


@pytest.mark.gpu
@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", [10, 1000])
@pytest.mark.parametrize("name", VOTES_ON_A_DEVICE)
def test_votes(benchmark, bench, classes, dtype, mode, name):
    if mode == "graph" and name != "ours":
        pytest.skip("the host waits in it: no graph")
    votes(benchmark, bench, 100_000, classes, dtype, mode, name)


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("name", ["ours", "ours, integer", "normals"])
def test_noise_rehearses_on_the_cpu(benchmark, name):
    noise(benchmark, Bench("cpu"), (4, 3, 8, 8), torch.float32, False, "graph", name)


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("name", VOTES_ON_A_DEVICE)
def test_votes_rehearse_on_the_cpu(benchmark, name):
    votes(benchmark, Bench("cpu"), 20, 10, torch.bfloat16, "eager", name)


def test_a_second_for_1000_rows_and_2_gigabytes_of_4():
    assert figures(0.5, 1000, 2**30, 2**32) == {
        "samples per second": 2000,
        "GB/s": 2**31 / 1e9,
        "percent of bandwidth": 50,
    }
