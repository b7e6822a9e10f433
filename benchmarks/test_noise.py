"""Noisy batches: ours, of both kinds, torch's three operations, the field's path, numpy, normals
alone; and integer noise in pairs with Gaussian noise and with the network that it is for.
"""

import time

import pytest
import torch

from benchmarks.implementations import NOISE, check_noise, noise_case
from tcertify.classifiers.networks import CifarResNet

SHAPES = [(1000, 3, 32, 32), (256, 3, 224, 224)]


@pytest.mark.benchmark(timer=time.process_time, warmup=True, min_rounds=5)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NOISE)
def test_noise_on_one_core(benchmark, name, shape):
    case = noise_case(shape, torch.float32, "cpu")
    check_noise(case, NOISE[name](case), name)
    benchmark.extra_info["elements"] = case.out.numel()
    if name == "ours, integer":
        benchmark.extra_info |= ratios(case, rounds=20 if benchmark.enabled else 1)
    benchmark(NOISE[name], case)


def ratios(case, rounds):
    """The time of integer noise over that of Gaussian noise, and of a forward pass."""
    ours, gaussian = paired(
        rounds, lambda: NOISE["ours, integer"](case), lambda: NOISE["ours"](case)
    )
    found = {"over_gaussian": ours / gaussian}
    rows, *image = case.out.shape
    if image == [3, 32, 32]:
        network, images = CifarResNet(20).eval(), case.out[:100].clone()
        with torch.inference_mode():
            (forward,) = paired(min(rounds, 3), lambda: network(images))
        found["of_a_forward_pass_of_resnet_20"] = ours / rows / (forward / len(images))
    return found


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
