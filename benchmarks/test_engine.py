"""Certification from images to radii, against the loop that the field runs.

    python -m pytest benchmarks/test_engine.py --benchmark-enable \
        --benchmark-json=benchmarks/results/engine_cpu.json

Reference and engine alternate in one process, on one thread, and are compared by CPU time: the
`ratio` in the results is the median over the pairs. Values are checked first.
"""

import os
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from adre_train.demo import train_digits
from tcertify.certify import certify_counts
from tcertify.data import digits
from tcertify.engine import certify_dataset
from tcertify.execution import Execution
from tcertify.sampling import ESTIMATION, SELECTION, Sampler

SIGMA, N = 0.5, 10_000
RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
FIELD_BATCH = 1000  # the field's default


@pytest.fixture(scope="module")
def network():
    return train_digits(sigma=SIGMA, epochs=6, seed=0)


@pytest.fixture(scope="module")
def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).eval()


def field_counts(model, x, n):
    """The field's loop: a batch of copies, noise, forward, argmax, labels to Python."""
    counts = np.zeros(10, dtype=int)
    with torch.no_grad():
        while n > 0:
            size = min(FIELD_BATCH, n)
            n -= size
            batch = x.repeat((size, 1, 1, 1))
            noise = torch.randn_like(batch) * SIGMA
            for label in model(batch + noise).argmax(1).cpu().numpy():
                counts[label] += 1
    return counts


def paired(reference, ours, pairs):
    """Return the median ratio of CPU seconds over alternating pairs, after one of each."""
    reference(), ours()
    ratios = []
    for _ in range(pairs):
        start = time.process_time()
        reference()
        middle = time.process_time()
        ours()
        ratios.append((middle - start) / (time.process_time() - middle))
    return statistics.median(ratios)


#: Name: how the engine executes the classifier, and its batch size (None: found by itself).
EXECUTIONS = {
    "float32": (Execution(), None),
    "float32, channels-last": (Execution(channels_last=True), 1024),
    "float32, channels-last, compiled": (Execution(channels_last=True, compile=True), 1024),
    "bfloat16, channels-last": (Execution(dtype="bfloat16", channels_last=True), 1024),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("name", ["network", "perceptron"])
def test_votes_at_equal_n(benchmark, request, name, execution):
    """Goals: 1.5 for the digits network, 3 for the perceptron."""
    model, data = request.getfixturevalue(name), digits.load("test")
    chosen, batch_size = EXECUTIONS[execution]
    sampler = Sampler(model, 10, SIGMA, execution=chosen, batch_size=batch_size)
    images, ids = data.images[:4], range(4)
    n = N if benchmark.enabled else 2000

    def ours():
        return sampler.count(images, ids, 0, n, ESTIMATION)

    def reference():
        return np.array([field_counts(model, image, n) for image in images])

    counts, expected = ours(), reference()
    assert counts.sum(1).tolist() == expected.sum(1).tolist() == [n] * 4
    spread = np.sqrt(expected * (n - expected) / n + 1)
    slack = 0.02 * n if "bfloat16" in execution else 0
    assert (abs(counts[:, :-1] - expected) <= 8 * spread + slack).all()
    benchmark.extra_info["ratio"] = paired(reference, ours, 5 if benchmark.enabled else 1)
    benchmark.extra_info["batch size"] = sampler.batch_size
    benchmark.pedantic(ours, rounds=3)


def table(label, radius, labels):
    return [int(((label == labels) & (radius >= r) & (radius > 0)).sum()) for r in RADII]


@pytest.mark.parametrize("early", [False, True], ids=["every sample", "radii"])
def test_a_table_of_certified_accuracy(benchmark, network, tmp_path, early):
    """The same table by the engine with and without early stopping, and by the field's loop.

    Goal with radii: a fifth of the seconds of the run without.
    """
    data, count = digits.load("test"), 40 if benchmark.enabled else 10
    indices = range(0, 3 * count, 3)
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
            top = field_counts(network, data.images[i], 100).argmax()
            rows.append((top, field_counts(network, data.images[i], N)))
        tops, counts = zip(*rows, strict=True)
        return certify_counts(counts, tops, sigma=SIGMA, method="certify")

    full, stopped = run(None), run(RADII)
    expected, got = (table(t.predicted, t.radius, labels) for t in (full, stopped))
    assert max(abs(a - b) for a, b in zip(expected, got, strict=True)) <= 1
    if benchmark.enabled:
        loop = field()
        by_loop = table(loop.label, loop.radius, labels)
        assert max(abs(a - b) for a, b in zip(expected, by_loop, strict=True)) <= 3
    ours = (lambda: run(RADII)) if early else (lambda: run(None))
    if benchmark.enabled:
        benchmark.extra_info["ratio to the field's loop"] = paired(field, ours, 1)
        benchmark.extra_info["ratio to every sample"] = paired(lambda: run(None), ours, 1)
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
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("size", "channels", "n", "dtype"),
    [(32, 3, 100_000, "float32"), (32, 3, 100_000, "bfloat16"), (224, 3, 4_000, "bfloat16")],
)
def test_votes_at_equal_n_on_a_gpu(benchmark, size, channels, n, dtype):
    """The field's float32 loop against the engine, a network of convolutions, random weights."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 64, 3, stride=1 if size < 64 else 4, padding=1)]
    for _ in range(20):
        layers += [nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    model = model.cuda().eval()
    images = torch.rand(2, channels, size, size, device="cuda")
    execution = Execution(dtype=dtype, channels_last=True)
    sampler = Sampler(model, 10, SIGMA, execution=execution)

    def ours():
        return sampler.count(images, range(2), 0, n, SELECTION)

    def reference():
        return np.array([field_counts(model, image, n) for image in images])

    counts, expected = ours(), reference()
    assert counts.sum(1).tolist() == expected.sum(1).tolist()
    assert (abs(counts[:, :-1] - expected) < 0.05 * n).all()
    seconds = []
    for work in (reference, ours, reference, ours):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    benchmark.extra_info["ratio"] = (seconds[0] + seconds[2]) / (seconds[1] + seconds[3])
    benchmark.extra_info["samples a second"] = 2 * n / seconds[3]
    benchmark.extra_info["device"] = torch.cuda.get_device_name()
    benchmark.pedantic(ours, rounds=3)
