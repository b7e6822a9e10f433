"""What only a GPU can show of the engine: samples per second, idle time, a data set's minutes.

The networks have random weights: the time of a forward pass, no skill.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.gpu_kernels import Bench, Report
from benchmarks.implementations import SIGMA, ResidualNet, field_votes
from tcertify.classifiers import Classifier, Execution
from tcertify.sampling import ESTIMATION, SELECTION, GaussianNoise, Sampler

FAST = Execution(dtype="bfloat16", channels_last=True)
RADII = (0.0, 0.25, 0.5, 0.75, 1.0)

#: Name: size of an image, batch of the field's loop, samples of the loop and of the engine.
NETWORKS = {
    "cifar-resnet110": (32, 1000, 20_000, 400_000),
    "resnet50": (224, 400, 4000, 20_000),
}


def network(bench: Bench, name: str) -> nn.Module:
    """A network with random weights on the device; a small one in the rehearsal."""
    from tcertify.classifiers.networks import build

    torch.manual_seed(0)
    made = ResidualNet(width=4, blocks=1) if bench.small else build(name, 10)
    return made.eval().to(bench.device)


def rates(bench: Bench) -> list[Report]:
    """Samples a second around one network: the engine, and the field's loop. Without a word, both
    run float32 as torch is set by itself, which is TF32 in convolutions.
    """
    table = []
    for name, (size, batch, few, many) in NETWORKS.items():
        if bench.small:
            size, batch, few, many = 8, 10, 20, 40
        model, x = network(bench, name), image(bench, size)
        rate = {
            "loop, float32": _rate(bench, _loop(model, x, batch), few),
            "ours, float32": _rate(bench, _engine(model, x, Execution()), few),
            "ours, float32, IEEE": _rate(bench, _engine(model, x, Execution(tf32=False)), few),
            "ours, bfloat16, channels-last": _rate(bench, _engine(model, x, FAST), many),
            "loop, bfloat16": _rate(bench, _loop(model.bfloat16(), x.bfloat16(), batch), few),
        }
        ours = rate["ours, bfloat16, channels-last"]
        table.append(
            {
                "network": name,
                "size": size,
                "loop_batch": batch,
                "samples_a_second": rate,
                "bfloat16_over_float32_loop": ours / rate["loop, float32"],
                "bfloat16_over_bfloat16_loop": ours / rate["loop, bfloat16"],
            }
        )
    return table


def image(bench: Bench, size: int) -> torch.Tensor:
    """One random image on the device."""
    pixels = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0))
    return pixels.to(bench.device)


class Votes(NamedTuple):
    """The votes of `n` samples, and the batch of which `n` should be a multiple."""

    count: Callable[[int], NDArray[np.int64]]
    batch: Callable[[], int]


def _loop(model: nn.Module, x: torch.Tensor, batch: int) -> Votes:
    return Votes(lambda n: field_votes(model, x, SIGMA, n, batch), lambda: batch)


def _engine(
    model: nn.Module, x: torch.Tensor, execution: Execution, batch_size: int | None = None
) -> Votes:
    classifier = Classifier(model, 10, execution=execution)
    sampler = Sampler(classifier, GaussianNoise(SIGMA), batch_size=batch_size)

    def votes(n: int) -> NDArray[np.int64]:
        found: NDArray[np.int64] = sampler.count(x[None], [0], 0, n, ESTIMATION)[0]
        return found

    def batch() -> int:
        assert sampler.batch_size is not None  # found by the first call
        return sampler.batch_size

    return Votes(votes, batch)


def _rate(bench: Bench, votes: Votes, n: int) -> float:
    """Samples a second by the wall clock, over whole batches, after a first call that settles
    memory and graphs; every sample is a vote.
    """
    votes.count(n)
    whole = -(-n // votes.batch()) * votes.batch()
    seconds = _seconds(bench, lambda: votes.count(whole), whole)
    return whole / seconds


def _seconds(bench: Bench, work: Callable[[], NDArray[np.int64]], n: int) -> float:
    bench.synchronize()
    start = time.perf_counter()
    found = work()
    bench.synchronize()
    assert found.sum() == n
    return time.perf_counter() - start


#: Rows of a batch at 32 x 32: about 1,024 in bfloat16 leave the activations in an H100's cache.
BATCHES = tuple(2**power for power in range(9, 15))


def batches(bench: Bench) -> list[Report]:
    """Samples a second of the engine over batch sizes, in float32 and bfloat16."""
    sizes = (4, 8) if bench.small else BATCHES
    model, x = network(bench, "cifar-resnet110"), image(bench, 8 if bench.small else 32)
    table = []
    for execution, batch in itertools.product((Execution(), FAST), sizes):
        votes = _engine(model, x, execution, batch)
        n = 10 * batch if bench.small else max(10 * batch, 2**16)  # enough for a graph
        table.append(
            {
                "dtype": execution.dtype or "float32",
                "channels_last": execution.channels_last,
                "batch": batch,
                "samples_a_second": _rate(bench, votes, n),
                "batch_afterwards": votes.batch(),  # less, where memory ran out
            }
        )
    return table


def compiled(bench: Bench) -> Report:
    """Samples a second through torch.compile, and how long the first call takes."""
    model, size, n = network(bench, "cifar-resnet110"), 32, 400_000
    if bench.small:
        return {}
    compiling = Execution(dtype="bfloat16", channels_last=True, compile=True)
    votes = _engine(model, image(bench, size), compiling)
    start = time.perf_counter()
    votes.count(100)
    first = time.perf_counter() - start
    return {"first_call_seconds": first, "samples_a_second": _rate(bench, votes, n)}


def idle(bench: Bench) -> Report:
    """The share of time in which the device does nothing between two looks, and the waits of the
    host for it, by the profiler; goals: below 3 %, none.
    """
    model, n = network(bench, "cifar-resnet110"), 100 if bench.small else 400_000
    votes = _engine(model, image(bench, 32), FAST)
    votes.count(n)
    bench.synchronize()
    with torch.profiler.profile() as profile:
        votes.count(n)
        bench.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        return busy_and_waits(json.loads(path.read_text())["traceEvents"])


def busy_and_waits(events: list[dict[str, Any]]) -> Report:
    """From a trace of the profiler: the share of the time from the first to the last kernel in
    which none ran, and the calls within it by which the host waited.
    """
    kernels = sorted(
        (event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("cat") == "kernel"
    )
    if not kernels:
        return {"kernels": 0}
    first, last, busy = kernels[0][0], kernels[0][0], 0.0
    for start, end in kernels:
        busy += max(0.0, end - max(start, last))
        last = max(last, end)
    waits = [
        event["name"]
        for event in events
        if event.get("cat") == "cuda_runtime"
        and "Synchronize" in event["name"]
        and first < event["ts"] + event["dur"] < last
    ]
    return {"kernels": len(kernels), "idle": 1 - busy / (last - first), "waits": waits}


def data_set(bench: Bench, limit: float) -> Report:
    """Images certified with early stopping at n = 100,000: 500, or what `limit` seconds allow."""
    from tcertify.data.dataset import TensorDataset
    from tcertify.runs.engine import certify_dataset
    from tcertify.runs.table import read_run

    count, n, size = (3, 2000, 8) if bench.small else (500, 100_000, 32)
    model = network(bench, "cifar-resnet110")
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    sampler = Sampler(Classifier(model, 10, execution=FAST), GaussianNoise(SIGMA))
    selected = sampler.count(images.to(bench.device), range(count), 0, 100, SELECTION)
    data = TensorDataset("random", 10, images, torch.from_numpy(selected[:, :-1].argmax(1)))
    start = time.perf_counter()

    def watch(done: int, planned: int) -> None:
        if time.perf_counter() - start > limit:
            raise KeyboardInterrupt

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.run"
        with suppress(KeyboardInterrupt):
            certify_dataset(
                model,
                data,
                sigma=SIGMA,
                out=path,
                n=n,
                radii=RADII,
                execution=FAST,
                allow=["rows"],  # bfloat16 logits may move with the batch by a last bit
                on_progress=watch,
            )
        seconds = time.perf_counter() - start
        table = read_run(path)
    return {
        "images": len(table.n),
        "of": count,
        "seconds": seconds,
        "mean_samples": float(np.mean(table.n)),
        "samples_a_second": float(np.sum(table.n)) / seconds,
    }
