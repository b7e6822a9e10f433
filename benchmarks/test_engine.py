"""Certification from images to radii, against the loop that the field runs.

    python -m pytest benchmarks/test_engine.py --benchmark-enable \
        --benchmark-json=benchmarks/results/engine_cpu.json

Reference and engine run in one process, on one thread, and are compared by CPU time: the ratios are
in `extra_info`. Values are checked first.
"""

import json
import os
import subprocess
import sys
import time

import pytest

from adre_train.demo import train_digits
from benchmarks.equal_n import EXECUTIONS, NETWORKS
from benchmarks.implementations import field_votes
from tcertify.certify import certify_counts
from tcertify.data import digits
from tcertify.engine import certify_dataset

SIGMA, N = 0.5, 10_000
RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture(scope="module")
def network():
    return train_digits(sigma=SIGMA, epochs=6, seed=0)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_votes_at_equal_n(benchmark, name, execution):
    """Goals: 1.5 for the digits network, 3 for the perceptron."""
    if not benchmark.enabled and (name, execution) != ("perceptron", "float32"):
        pytest.skip("one of them shows that it runs")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.equal_n", name, execution],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    benchmark.extra_info.update(json.loads(done.stdout.splitlines()[-1]))
    assert benchmark.extra_info["ratio"] > 0
    benchmark.pedantic(lambda: None)


def seconds_of(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def table(label, radius, labels):
    return [int(((label == labels) & (radius >= r) & (radius > 0)).sum()) for r in RADII]


@pytest.mark.parametrize("early", [False, True], ids=["every sample", "radii"])
def test_a_table_of_certified_accuracy(benchmark, network, tmp_path, early):
    """The same table by the engine with and without early stopping, and by the field's loop.

    Goal with radii: a fifth of the seconds of the run without.
    """
    data = digits.load("test")
    indices = range(0, 360, 2 if benchmark.enabled else 36)
    labels = data.labels[list(indices)].numpy()

    def run(radii):
        return certify_dataset(
            network,
            data,
            sigma=SIGMA,
            out=tmp_path / "a.run",
            n=N,
            method="certify",
            radii=radii,
            indices=indices,
            overwrite=True,
        )

    def field():
        rows = []
        for i in indices:
            top, counts = (field_votes(network, data.images[i], SIGMA, n, 1000) for n in (100, N))
            rows.append((top.argmax(), counts))
        tops, counts = zip(*rows, strict=True)
        return certify_counts(counts, tops, sigma=SIGMA, method="certify")

    full, stopped = run(None), run(RADII)
    expected, got = (table(t.predicted, t.radius, labels) for t in (full, stopped))
    assert max(abs(a - b) for a, b in zip(expected, got, strict=True)) <= 2
    if benchmark.enabled:
        loop = field()
        by_loop = table(loop.label, loop.radius, labels)
        assert max(abs(a - b) for a, b in zip(expected, by_loop, strict=True)) <= 6
    ours = (lambda: run(RADII)) if early else (lambda: run(None))
    if benchmark.enabled:
        seconds = [seconds_of(work) for work in (field, lambda: run(None), ours)]
        benchmark.extra_info["ratio to the field's loop"] = seconds[0] / seconds[2]
        benchmark.extra_info["ratio to every sample"] = seconds[1] / seconds[2]
        benchmark.extra_info["table"] = {"every sample": expected, "radii": got, "loop": by_loop}
    benchmark.extra_info["mean samples"] = float((stopped if early else full).n.mean())
    benchmark.pedantic(ours, rounds=1)


PEAK = """
import sys, torch
from torch import nn
from tcertify.data.dataset import TensorDataset
from tcertify.engine import certify_dataset
torch.set_num_threads(1)
torch.manual_seed(0)
images, n, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).eval()
data = TensorDataset("random", 10, torch.rand(images, 1, 8, 8), torch.zeros(images).long())
certify_dataset(model, data, sigma=0.5, out=out, n=n)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak(images, n, folder):
    """Return the peak resident size in KiB of a process that certifies images at n samples."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(images), str(n), str(folder / f"{images}-{n}.run")],
        capture_output=True,
        text=True,
        check=True,
        env=ENVIRONMENT,
    )
    return int(done.stdout)


def test_memory_does_not_grow_with_the_samples_or_the_images(benchmark, tmp_path):
    """Goal: under 5 % from n = 1,000 to 1,000,000 and from 10 to 1,000 images."""
    few, many_samples = peak(2, 1000, tmp_path), peak(2, 1_000_000, tmp_path)
    ten, many_images = peak(10, 1000, tmp_path), peak(1000, 1000, tmp_path)
    benchmark.extra_info["growth with n"] = many_samples / few - 1
    benchmark.extra_info["growth with images"] = many_images / ten - 1
    benchmark.pedantic(lambda: None)
    assert many_samples < 1.05 * few
    assert many_images < 1.05 * ten
