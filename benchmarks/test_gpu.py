"""The suite for a GPU rehearses on the CPU, in miniature."""

import json

import pytest

from benchmarks.gpu import Suite, is_right
from benchmarks.gpu_engine import busy_and_waits


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    found = Suite("cpu").run(folder / "gpu.json")
    assert json.loads((folder / "gpu.json").read_text()).keys() == found.keys()
    return found


def test_every_part_runs_to_its_end(report):
    assert {name: part["error"] for name, part in report.items() if "error" in part} == {}
    assert is_right(report)


def test_device_bits_and_twin_bits_are_compared(report):
    found = report["bits"]["result"]
    assert found["elements"] > 100_000
    assert found["differ"] == found["counts_that_differ"] == 0
    assert report["known_answers"]["result"] is True


@pytest.mark.parametrize(
    ("part", "finding"),
    [
        ("bits", {"differ": 1, "counts_that_differ": 0}),
        ("bits", {"differ": 0, "counts_that_differ": 1}),
        ("known_answers", False),
        ("launches", {"graph_equals_eager": False}),
        ("gpu_tests", {"exit_code": 1}),
        ("gpu_tests", {"timeout": 150}),
    ],
)
def test_a_difference_or_a_failure_fails_the_suite(report, part, finding):
    assert not is_right({**report, part: {"result": finding}})
    assert not is_right({**report, part: {"error": "out of memory"}})
    assert not is_right({**report, part: {"skipped": "2 s were left"}})


@pytest.mark.parametrize("part", ["noise", "votes"])
def test_tables_hold_each_shape_with_its_share_of_the_bandwidth(report, part):
    for row in report[part]["result"]:
        assert row["ours_microseconds"] > 0
        assert any(name.endswith("bandwidth") and row[name] > 0 for name in row)


def test_launches_are_timed_on_the_host(report):
    assert report["launches"]["result"]["noise_microseconds"] > 0


def test_the_engine_is_compared_with_the_loop_for_each_network(report):
    for row in report["rates"]["result"]:
        assert len(row["samples_a_second"]) == 5
        assert min(row["samples_a_second"].values()) > 0
    assert report["data_set"]["result"]["images"] == 3


def test_idle_time_and_waits_are_read_from_a_trace():
    def kernel(start, length):
        return {"cat": "kernel", "name": "k", "ts": start, "dur": length}

    def call(name, start):
        return {"cat": "cuda_runtime", "name": name, "ts": start, "dur": 1.0}

    overlapping = [kernel(10.0, 4.0), kernel(12.0, 4.0), kernel(18.0, 2.0)]
    calls = [
        call("cudaStreamSynchronize", 11.0),
        call("cudaLaunchKernel", 11.0),
        call("cudaDeviceSynchronize", 30.0),
    ]
    found = busy_and_waits([*overlapping, *calls, {"ph": "M"}])
    assert found == {"kernels": 3, "idle": pytest.approx(0.2), "waits": ["cudaStreamSynchronize"]}
    assert busy_and_waits(calls) == {"kernels": 0}
