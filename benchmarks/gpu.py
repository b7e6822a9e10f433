"""Everything that only a GPU can show, in one report.

It needs torch, CuPy, numba, scipy and pytest, and downloads nothing. Two calls of less than nine
minutes each make the whole, and write into one report::

    python -m benchmarks.gpu --out DIR --parts kernels
    python -m benchmarks.gpu --out DIR --parts engine

With ``--device cpu`` it rehearses itself in miniature: the same code over tiny tensors, whose times
mean nothing.

Each part is measured by itself; one that fails is recorded with its error, and the rest goes on.
The file is written after every part, so that nothing measured is lost.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import ROOT, gpu_engine, gpu_kernels, parser_of
from benchmarks.gpu_kernels import Bench, Report

SECONDS = 530  # no part is begun after this, no tool outlasts it
NEEDS = {"data_set": 60, "compiled": 150}  # seconds without which a part is not begun

#: What `--parts` can ask for, beside each part by its name; in the order of their worth.
GROUPS = {
    "kernels": (
        *("environment", "known_answers", "bits", "ceilings", "noise", "votes", "launches"),
        *("gpu_tests", "profile", "sanitizer"),
    ),
    "engine": ("environment", "rates", "batches", "idle", "data_set", "compiled"),
}

#: What pytest needs to know where the plugins that pyproject.toml counts on are not installed.
BARE_PYTEST = (
    *("-c", "/dev/null", "--rootdir", str(ROOT), "--import-mode=importlib"),
    *("-o", "markers=gpu", "-p", "no:cacheprovider"),
)


class Suite:
    """The parts of the suite, on one device."""

    def __init__(self, device: str, folder: Path) -> None:
        self.bench = Bench(device)
        self.folder = folder
        self.start = time.perf_counter()

    @property
    def parts(self) -> dict[str, Callable[[], Any]]:
        """What is found out, by name."""
        measured = (
            *(gpu_kernels.ceilings, gpu_kernels.known_answers, gpu_kernels.bits),
            *(gpu_kernels.noise, gpu_kernels.votes, gpu_kernels.launches),
            *(gpu_engine.rates, gpu_engine.batches, gpu_engine.idle, gpu_engine.compiled),
        )
        own = (self.environment, self.gpu_tests, self.sanitizer, self.profile)
        return {
            **{part.__name__: part for part in own},
            **{part.__name__: partial(part, self.bench) for part in measured},
            "data_set": lambda: gpu_engine.data_set(self.bench, min(120, self.left - 20)),
        }

    def run(self, names: Iterable[str]) -> Report:
        """Measure parts in turn, and keep in ``gpu.json`` of each its result and its seconds, or
        the error that ended it; parts that are there already from another call stay.
        """
        path = self.folder / "gpu.json"
        report: Report = json.loads(path.read_text()) if path.exists() else {}
        for name in names:
            start = time.perf_counter()
            report[name] = self._outcome(name)
            report[name]["seconds"] = round(time.perf_counter() - start, 2)
            path.write_text(json.dumps(report, indent=1, default=str) + "\n")
            words = [report[name].get(word) for word in ("error", "skipped")]
            done = next(filter(None, words), "done")
            print(f"{name}: {report[name]['seconds']} s, {done}", flush=True)
        return report

    def _outcome(self, name: str) -> Report:
        if self.left < NEEDS.get(name, 5):
            return {"skipped": f"{self.left:.0f} s were left"}
        try:
            return {"result": self.parts[name]()}
        except Exception as error:
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"}

    @property
    def left(self) -> float:
        """Seconds left."""
        return SECONDS - (time.perf_counter() - self.start)

    def environment(self) -> Report:
        """The device, the driver, the versions and the commit."""
        packages = ("torch", "cupy-cuda13x", "cupy-cuda12x", "numba", "numpy", "scipy")
        versions = {}
        for package in packages:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                versions[package] = None
        found: Report = {
            "python": platform.python_version(),
            "versions": versions,
            "command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]]),
            "commit": _output("git", "-C", str(ROOT), "rev-parse", "HEAD"),
            "changed": _output("git", "-C", str(ROOT), "status", "--porcelain"),
            "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        }
        if not self.bench.small:
            card = torch.cuda.get_device_properties(0)
            driver = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
            found |= {
                "device": card.name,
                "capability": f"{card.major}.{card.minor}",
                "multiprocessors": card.multi_processor_count,
                "cache_bytes": card.L2_cache_size,
                "memory_bytes": card.total_memory,
                "driver": _output(*driver),
                "cuda_of_torch": torch.version.cuda,
            }
        return found

    def gpu_tests(self) -> Report:
        """The tests marked gpu."""
        command = [sys.executable, "-m", "pytest", "-q", *BARE_PYTEST, "-m", "gpu"]
        command += [] if self.bench.small else ["--require-gpu"]
        return self._tool([*command, "tests/kernels", "tests/sampling"], 150)

    def sanitizer(self) -> Report:
        """What compute-sanitizer's memcheck and racecheck say of one launch of each kernel.

        torch's caching allocator would give each tensor room beyond its end.
        """
        check = ["compute-sanitizer", "--error-exitcode", "9", "--tool"]
        bare = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        return {
            tool: self._tool([*check, tool, *_probe("small")], 90, bare)
            for tool in ("memcheck", "racecheck")
        }

    def profile(self) -> Report:
        """What ncu says of one launch of each kernel, at the clocks that the device has by itself:
        all metrics of its basic sections, in ``ncu.csv`` beside the report.
        """
        command = ["ncu", "--clock-control", "none", "--set", "basic", "--csv", "--page", "raw"]
        command += ["--kernel-name-base", "function", "--kernel-name", OUR_KERNELS]
        return self._tool([*command, *_probe("large")], 120, output=self.folder / "ncu.csv")

    def _tool(
        self,
        command: list[str],
        seconds: float,
        environment: dict[str, str] | None = None,
        output: Path | None = None,
    ) -> Report:
        """The exit code and the last lines of a program, or that it is not there; all that it
        prints goes to `output`.
        """
        if shutil.which(command[0]) is None:
            return {"missing": command[0]}
        limit = min(seconds, max(self.left, 1))
        code, text = finished(command, limit, environment or {})
        if output is not None:
            output.write_text(text)
        if code is None:
            return {"timeout": limit, "last_lines": text.splitlines()[-20:]}
        return {"exit_code": code, "last_lines": text.splitlines()[-100:]}


#: For ncu: our kernels, and none of torch's.
OUR_KERNELS = "regex:^(integer_)?(contiguous|channels_last|colour|few|many)_"


def _probe(which: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.gpu", "--probe", which]


def finished(
    command: list[str], limit: float, environment: dict[str, str]
) -> tuple[int | None, str]:
    """Run a program; return its exit code and all that it printed. After `limit` seconds it is
    killed with all its children, who would disturb what is measured next, and the code is None.
    """
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        text, _ = process.communicate(timeout=limit)
        return process.returncode, text
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]


def _output(*command: str) -> str | None:
    """What a command prints, or None where it does not exist or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def names_of(parts: str) -> list[str]:
    """The parts that a list of names and groups asks for, each once."""
    names = [name for word in parts.split(",") for name in GROUPS.get(word, (word,))]
    known = {name for group in GROUPS.values() for name in group}
    for name in names:
        if name not in known:
            known_words = ", ".join([*GROUPS, *sorted(known)])
            raise ValueError(f"`--parts` must name some of {known_words}, got {name!r}.")
    return list(dict.fromkeys(names))


def is_right(report: Report) -> bool:
    """Whether every part that must ran to its end, the device's bits are those of the twins, a
    graph gives what single launches give, and the tests pass: of the parts that are there.
    """
    if any("error" in part for part in report.values()):
        return False
    if any("skipped" in report[name] for name in report.keys() - NEEDS.keys()):
        return False
    found = {name: part.get("result") for name, part in report.items()}
    bits = found.get("bits", {"differ": 0, "counts_that_differ": 0})
    graph = found.get("launches", {}).get("graph_equals_eager", True)
    passed = found.get("gpu_tests", {"exit_code": 0}).get("exit_code") == 0
    same = bits["differ"] == bits["counts_that_differ"] == 0
    return bool(found.get("known_answers", True) and same and graph and passed)


def main() -> None:
    """Run the suite and write ``DIR/gpu.json``."""
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, help="folder of the report")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--parts", default=",".join(GROUPS), help="groups and parts to measure, by commas"
    )
    parser.add_argument(
        "--probe", choices=gpu_kernels.PROBES, help="launch each kernel once, no report"
    )
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device; `--device cpu` rehearses the suite")
    if arguments.probe:
        gpu_kernels.probe(arguments.device, *gpu_kernels.PROBES[arguments.probe])
        return
    if arguments.out is None:
        parser.error("`--out` names the folder of the report")
    try:
        names = names_of(arguments.parts)
    except ValueError as error:
        parser.error(str(error))
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = Suite(arguments.device, arguments.out).run(names)
    print(arguments.out / "gpu.json")
    sys.exit(0 if is_right(report) else 1)


if __name__ == "__main__":
    main()
