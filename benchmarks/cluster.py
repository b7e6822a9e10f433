"""Runs on Ray beside the plain engine: ``python -m benchmarks.cluster``.

Writes benchmarks/results/cluster.json. The digits network, 200 images, n = 10,000, every sample:
the plain engine on one thread, Ray with one worker and Ray with two, one after the other, several
times. The rows are compared before a time is kept. What is compared is the time from the first
image to the last; the start, in which workers load torch and the classifier, is stated apart.

Goals: two workers 1.8 times as fast as one, on two cores; one worker within 5 % of the engine. For
times that mean something, nothing else may run.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from adre_train.demo import train_digits
from benchmarks import ROOT, parser_of
from tcertify.cluster import Ray
from tcertify.data import digits
from tcertify.runs import certify_dataset
from tcertify.runs.file import RunFile
from tcertify.runs.machine import Cluster, machine

RECORD = Path(__file__).parent / "results" / "cluster.json"


@dataclass
class Timed:
    """A cluster, or this machine, whose start and work are timed; `processor` are the seconds of
    all its processes at work.
    """

    inner: Cluster
    start: float = 0.0
    work: float = 0.0
    processor: float = 0.0
    _hands: Any = field(default=None, repr=False)

    @contextmanager
    def __call__(self, *arguments: Any) -> Iterator[Any]:
        """Yield the hands, timed."""
        began = time.perf_counter()
        with self.inner(*arguments) as self._hands:
            self.start = time.perf_counter() - began
            yield self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hands, name)

    def certify(self, *arguments: Any) -> Any:
        """Make the rows, timed."""
        workers = self._hands.environment.get("workers", [])
        pids = [os.getpid(), *(worker["pid"] for worker in workers)]
        began, before = time.perf_counter(), _processor_seconds(pids)
        rest = self._hands.certify(*arguments)
        self.work = time.perf_counter() - began
        self.processor = _processor_seconds(pids) - before
        return rest


def _processor_seconds(pids: list[int]) -> float:
    """Return the processor time of processes of this machine."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run, compare and record."""
    parser = parser_of(__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = train_digits(sigma=0.5, epochs=6, seed=0)
    ways = {"engine": machine, "one worker": Ray(workers=1), "two workers": Ray(workers=2)}
    found: dict[str, list[Timed]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        for at in range(options.rounds):
            rows = {}
            for name, way in ways.items():
                timed, out = Timed(way), Path(folder, f"{name} {at}.run")
                certify_dataset(
                    network,
                    digits.load("test"),
                    sigma=0.5,
                    n=options.n,
                    indices=range(options.images),
                    out=out,
                    cluster=timed,
                )
                found[name].append(timed)
                with RunFile(out) as run:
                    rows[name] = [replace(row, seconds=0.0) for row in run.rows()]
            assert rows["engine"] == rows["one worker"] == rows["two workers"]
            assert len(rows["engine"]) == options.images
            last = {name: times[-1] for name, times in found.items()}
            print({name: (round(t.work, 2), round(t.processor, 2)) for name, t in last.items()})
    best = {name: min(timed.work for timed in times) for name, times in found.items()}
    record = {
        "command": "python -m benchmarks.cluster",
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "images": options.images,
        "n": options.n,
        "seconds": {name: [t.work for t in times] for name, times in found.items()},
        "processor seconds": {name: [t.processor for t in ts] for name, ts in found.items()},
        "start": {name: [t.start for t in times] for name, times in found.items()},
        "two workers are faster than one by": best["one worker"] / best["two workers"],
        "one worker takes more than the engine by": best["one worker"] / best["engine"] - 1,
        "load before": os.getloadavg(),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


def _commit() -> str:
    said = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return said.stdout.strip()


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return next(iter(names), platform.machine())


if __name__ == "__main__":
    main()
