"""The suite for a GPU rehearses on the CPU, in miniature."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import ROOT
from benchmarks.gpu import GROUPS, OUR_KERNELS, Suite, finished, is_right, names_of
from benchmarks.gpu_engine import busy_and_waits


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The two calls that make the whole, into one folder."""
    folder = tmp_path_factory.mktemp("gpu")
    for group in GROUPS:
        found = Suite("cpu", folder).run(names_of(group))
        assert json.loads((folder / "gpu.json").read_text()).keys() == found.keys()
    return found


def test_two_calls_run_every_part_to_its_end(report):
    assert report.keys() == set(names_of(",".join(GROUPS)))
    assert {name: part["error"] for name, part in report.items() if "error" in part} == {}
    assert is_right(report)


def test_parts_are_asked_for_by_name_and_by_group():
    assert names_of("bits") == ["bits"]
    assert names_of("noise,bits,noise") == ["noise", "bits"]
    assert names_of("engine") == list(GROUPS["engine"])
    with pytest.raises(ValueError, match=r"`--parts` must name some of kernels, .* 'nose'\."):
        names_of("bits,nose")


def run_module(*arguments, folder=ROOT, **environment):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": "", **environment},
        capture_output=True,
        text=True,
    )


def test_a_bare_checkout_uses_its_own_kernels(tmp_path):
    for package in ("benchmarks", "kernels"):
        shutil.copytree(ROOT / package, tmp_path / package)
    code = "import benchmarks.gpu_kernels, tcertify_kernels; print(tcertify_kernels.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "kernels")


def test_a_part_that_is_not_known_is_refused_in_a_sentence(tmp_path):
    done = run_module("--device", "cpu", "--parts", "nose", "--out", str(tmp_path / "report"))
    assert done.returncode == 2
    assert "`--parts` must name some of" in done.stderr
    assert not (tmp_path / "report").exists()


def test_a_program_that_outlasts_its_limit_is_killed_with_its_children():
    child = "import time; print('child', flush=True); time.sleep(60)"
    parent = f"import os, subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {child!r}]);"
    parent += "print(p.pid, flush=True); p.wait()"
    code, text = finished([sys.executable, "-c", parent], 2, {})
    assert code is None
    [pid] = [word for word in text.split() if word.isdigit()]
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            break
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def test_the_kernels_that_are_profiled_are_all_of_ours():
    pattern = re.compile(OUR_KERNELS.removeprefix("regex:"))
    record = json.loads((ROOT / "benchmarks/results/registers.json").read_text())
    assert all(pattern.match(name) for name in record["kernels"]["sm_90"])
    assert not pattern.match("vectorized_elementwise_kernel")


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
    assert all(row["samples_a_second"] > 0 for row in report["batches"]["result"])
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
