"""Certifying one image: ours against the field's loop, around the same network."""

import time

import pytest

from benchmarks.implementations import CERTIFICATION, certification_case, check_certification
from benchmarks.timing import DeviceClock


@pytest.mark.benchmark(timer=time.process_time, warmup=False, min_rounds=3)
@pytest.mark.parametrize("name", CERTIFICATION)
def test_certification_on_one_core(benchmark, name):
    case = certification_case("cpu", n=1000, batch_size=1000)
    check_certification(case, CERTIFICATION[name](case), name)
    benchmark(CERTIFICATION[name], case)


@pytest.mark.gpu
@pytest.mark.benchmark(timer=DeviceClock(), warmup=True, min_rounds=3)
@pytest.mark.parametrize("name", CERTIFICATION)
def test_certification_on_a_device(benchmark, name):
    case = certification_case("cuda", n=100_000, batch_size=1000)
    check_certification(case, CERTIFICATION[name](case), name)
    benchmark(CERTIFICATION[name], case)
