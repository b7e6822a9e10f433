"""What only a GPU can show of the engine: samples a second, idle time, a data set's minutes.

The networks have random weights: the time of a forward pass, no skill.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

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
    """Samples a second around one network: the engine, and the field's loop with torch's defaults,
    which are TF32 in convolutions of float32.
    """
    table = []
    for name, (size, batch, few, many) in NETWORKS.items():
        if bench.small:
            size, batch, few, many = 8, 10, 20, 40
        model = network(bench, name)
        x = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0)).to(bench.device)
        rate = {
            "loop, float32": _rate(bench, _loop(model, x, batch), few),
            "ours, float32": _rate(bench, _engine(model, x, Execution()), few),
            "ours, float32 with TF32": _rate(bench, _engine(model, x, Execution(tf32=True)), many),
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


Votes = Callable[[int], NDArray[np.int64]]


def _loop(model: nn.Module, x: torch.Tensor, batch: int) -> Votes:
    return lambda n: field_votes(model, x, SIGMA, n, batch)


def _engine(model: nn.Module, x: torch.Tensor, execution: Execution) -> Votes:
    sampler = Sampler(Classifier(model, 10, execution=execution), GaussianNoise(SIGMA))

    def votes(n: int) -> NDArray[np.int64]:
        found: NDArray[np.int64] = sampler.count(x[None], [0], 0, n, ESTIMATION)[0]
        return found

    return votes


def _rate(bench: Bench, work: Votes, n: int) -> float:
    """Samples a second by the wall clock, after a warming call; every sample is a vote."""
    work(n)
    bench.synchronize()
    start = time.perf_counter()
    votes = work(n)
    bench.synchronize()
    seconds = time.perf_counter() - start
    assert votes.sum() == n
    return n / seconds


def compiled(bench: Bench) -> Report:
    """Samples a second through torch.compile, and how long the first call takes."""
    model, size, n = network(bench, "cifar-resnet110"), 32, 400_000
    if bench.small:
        return {}
    x = torch.rand(3, size, size, device=bench.device)
    votes = _engine(model, x, Execution(dtype="bfloat16", channels_last=True, compile=True))
    start = time.perf_counter()
    votes(100)
    first = time.perf_counter() - start
    return {"first_call_seconds": first, "samples_a_second": _rate(bench, votes, n)}


def idle(bench: Bench) -> Report:
    """The share of time in which the device does nothing between two looks, and the waits of the
    host for it, by the profiler; goals: below 3 %, none.
    """
    model, n = network(bench, "cifar-resnet110"), 100 if bench.small else 400_000
    votes = _engine(model, torch.rand(3, 32, 32, device=bench.device), FAST)
    votes(n)
    bench.synchronize()
    with torch.profiler.profile() as profile:
        votes(n)
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
                dtype="bfloat16",
                channels_last=True,
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
