"""Noisy batches: ours, torch's three operations, the field's path, numpy, normals alone."""

import time

import pytest
import torch

from benchmarks.implementations import NOISE, check_noise, noise_case
from benchmarks.timing import DeviceClock

SHAPES = [(1000, 3, 32, 32), (256, 3, 224, 224)]
DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.benchmark(timer=time.process_time, warmup=True, min_rounds=5)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NOISE)
def test_noise_on_one_core(benchmark, name, shape):
    case = noise_case(shape, torch.float32, "cpu")
    check_noise(case, NOISE[name](case), name)
    benchmark.extra_info["elements"] = case.out.numel()
    benchmark(NOISE[name], case)


@pytest.mark.benchmark(timer=time.perf_counter, warmup=True, min_rounds=5)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_noise_on_threads(benchmark, threads, shape):
    torch.set_num_threads(threads)
    case = noise_case(shape, torch.float32, "cpu")
    check_noise(case, NOISE["ours"](case), "ours")
    benchmark.extra_info["elements"] = case.out.numel()
    benchmark(NOISE["ours"], case)


@pytest.mark.gpu
@pytest.mark.benchmark(timer=DeviceClock(), warmup=True, min_rounds=10)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [name for name in NOISE if name != "numpy"])
def test_noise_on_a_device(benchmark, name, shape, dtype):
    cases = [noise_case(shape, dtype, "cuda") for _ in range(max(2, 2**28 // shape[0] // 12288))]
    check_noise(cases[0], NOISE[name](cases[0]), name)
    benchmark.extra_info["elements"] = sum(case.out.numel() for case in cases)
    benchmark(lambda: [NOISE[name](case) for case in cases])
