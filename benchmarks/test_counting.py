"""Votes of a batch: ours, torch's operations, the field's loop, numpy."""

import time

import pytest
import torch

from benchmarks.implementations import VOTES, check_votes, vote_case
from benchmarks.timing import DeviceClock

CLASSES = [10, 1000]


def checked(name, case):
    before = case.counts.clone()
    check_votes(case, before, VOTES[name](case))


@pytest.mark.benchmark(timer=time.process_time, warmup=True, min_rounds=5)
@pytest.mark.parametrize(("rows", "classes"), [(1000, 10), (100_000, 10), (1000, 1000)])
@pytest.mark.parametrize("name", VOTES)
def test_votes_on_one_core(benchmark, name, rows, classes):
    case = vote_case(rows, classes, torch.float32, "cpu")
    checked(name, case)
    benchmark.extra_info["rows"] = rows
    benchmark(VOTES[name], case)


@pytest.mark.gpu
@pytest.mark.benchmark(timer=DeviceClock(), warmup=True, min_rounds=10)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [name for name in VOTES if name != "numpy"])
def test_votes_on_a_device(benchmark, name, dtype, classes):
    cases = [vote_case(100_000, classes, dtype, "cuda") for _ in range(2)]
    checked(name, cases[0])
    benchmark.extra_info["rows"] = sum(len(case.logits) for case in cases)
    benchmark(lambda: [VOTES[name](case) for case in cases])
