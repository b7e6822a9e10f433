"""Votes of a batch on a CPU: ours, torch's operations, the field's loop, numpy."""

import time

import pytest
import torch

from benchmarks.implementations import VOTES, check_votes, vote_case


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
