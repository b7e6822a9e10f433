"""Noisy batches: ours, torch's three operations, the field's path, numpy, normals alone; and
integer noise against ours and against the network that it is for.
"""

import time

import pytest
import torch

from benchmarks.implementations import NOISE, SEED, SIGMA, STREAM, check_noise, noise_case
from tcertify.classifiers.networks import CifarResNet
from tcertify_kernels import add_integer_noise

SHAPES = [(1000, 3, 32, 32), (256, 3, 224, 224)]


@pytest.mark.benchmark(timer=time.process_time, warmup=True, min_rounds=5)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NOISE)
def test_noise_on_one_core(benchmark, name, shape):
    case = noise_case(shape, torch.float32, "cpu")
    check_noise(case, NOISE[name](case), name)
    benchmark.extra_info["elements"] = case.out.numel()
    benchmark(NOISE[name], case)


@pytest.mark.benchmark(timer=time.process_time, warmup=True, min_rounds=5)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_integer_noise_on_one_core(benchmark, shape):
    case = noise_case(shape, torch.float32, "cpu")
    case.x = case.x.mul(255).round() / 255
    invalid = torch.empty(shape[0], dtype=torch.bool)
    rows = case.x, case.slot, case.image, case.sample
    numbers = {"sigma": SIGMA, "levels": 255, "seed": SEED, "stream": STREAM}

    def integer():
        return add_integer_noise(case.out, invalid, *rows, **numbers)

    check_noise(case, integer(), "integer")
    levels = case.out.double() * 255
    assert (levels - levels.round()).abs().max() < 1e-3
    rounds = 20 if benchmark.enabled else 1
    ours, gaussian = paired(rounds, integer, lambda: NOISE["ours"](case))
    benchmark.extra_info |= {"elements": case.out.numel(), "over_gaussian": ours / gaussian}
    if shape[1:] == (3, 32, 32):
        network, images = CifarResNet(20).eval(), case.out[:100].clone()
        with torch.inference_mode():
            (forward,) = paired(3 if benchmark.enabled else 1, lambda: network(images))
        benchmark.extra_info["of_a_forward_pass_of_resnet_20"] = ours / shape[0] / (forward / 100)
    benchmark(integer)


def paired(rounds, *works):
    """The shortest processor time of each, taken in turns: what else the machine does is shared."""
    found = [[] for _ in works]
    for _ in range(rounds + 1):
        for work, times in zip(works, found, strict=True):
            before = time.process_time()
            work()
            times.append(time.process_time() - before)
    return [min(times) for times in found]


@pytest.mark.benchmark(timer=time.perf_counter, warmup=True, min_rounds=5)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_noise_on_threads(benchmark, threads, shape):
    torch.set_num_threads(threads)
    case = noise_case(shape, torch.float32, "cpu")
    check_noise(case, NOISE["ours"](case), "ours")
    benchmark.extra_info["elements"] = case.out.numel()
    benchmark(NOISE["ours"], case)
