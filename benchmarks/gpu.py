"""Everything that only a GPU can show, in one command and one JSON file.

``python -m benchmarks.gpu --out DIR`` needs torch, CuPy, numba, scipy and pytest, downloads nothing
and takes less than nine minutes. With ``--device cpu`` it rehearses itself in miniature: the same
code over tiny tensors, whose times mean nothing.

Each part is measured by itself; one that fails is recorded with its error, and the rest goes on.
The file is written after every part, so that nothing measured is lost.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_engine, gpu_kernels
from benchmarks.gpu_kernels import Bench, Report

ROOT = Path(__file__).parents[1]
SECONDS = 530  # no part is begun after this, no tool outlasts it
NEEDS = {"data_set": 60, "compiled": 150}  # seconds without which a part is not begun

#: What pytest needs to know where the plugins that pyproject.toml counts on are not installed.
BARE_PYTEST = (
    *("-c", "/dev/null", "--rootdir", str(ROOT), "--import-mode=importlib"),
    *("-o", "markers=gpu", "-p", "no:cacheprovider"),
)


class Suite:
    """The parts of the suite, on one device."""

    def __init__(self, device: str) -> None:
        self.bench = Bench(device)
        self.start = time.perf_counter()

    @property
    def parts(self) -> dict[str, Callable[[], Any]]:
        """What is found out, in the order of its worth."""
        measured = (
            *(gpu_kernels.ceilings, gpu_kernels.known_answers, gpu_kernels.bits),
            *(gpu_kernels.noise, gpu_kernels.votes, gpu_kernels.launches),
            *(gpu_engine.rates, gpu_engine.idle),
        )
        return {
            "environment": self.environment,
            **{part.__name__: lambda part=part: part(self.bench) for part in measured},
            "gpu_tests": self.gpu_tests,
            "sanitizer": self.sanitizer,
            "profile": self.profile,
            "data_set": lambda: gpu_engine.data_set(self.bench, min(120, self.left - 20)),
            "compiled": lambda: gpu_engine.compiled(self.bench),
        }

    def run(self, path: Path) -> Report:
        """Every part in turn: its result and its seconds, or the error that ended it."""
        report: Report = {"command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]])}
        for name, part in self.parts.items():
            start = time.perf_counter()
            if self.left < NEEDS.get(name, 5):
                report[name] = {"skipped": f"{self.left:.0f} s were left"}
                continue
            try:
                report[name] = {"result": part()}
            except Exception as error:
                traceback.print_exc()
                report[name] = {"error": f"{type(error).__name__}: {error}"}
            report[name]["seconds"] = round(time.perf_counter() - start, 2)
            path.write_text(json.dumps(report, indent=1, default=str) + "\n")
            done = report[name].get("error", "done")
            print(f"{name}: {report[name]['seconds']} s, {done}", flush=True)
        return report

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
        """What compute-sanitizer's memcheck and racecheck say of one launch of each kernel."""
        probe = [sys.executable, "-m", "benchmarks.gpu", "--probe"]
        check = ["compute-sanitizer", "--error-exitcode", "9", "--tool"]
        return {tool: self._tool([*check, tool, *probe], 60) for tool in ("memcheck", "racecheck")}

    def profile(self) -> Report:
        """What ncu says of one launch of each kernel."""
        command = ["ncu", "--set", "basic", "--kernel-name-base", "function"]
        return self._tool([*command, sys.executable, "-m", "benchmarks.gpu", "--probe"], 60)

    def _tool(self, command: list[str], seconds: float) -> Report:
        """The exit code and the last lines of a program, or that it is not there."""
        if shutil.which(command[0]) is None:
            return {"missing": command[0]}
        limit = min(seconds, max(self.left, 1))
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return {"timeout": limit}
        lines = (done.stdout + done.stderr).splitlines()
        return {"exit_code": done.returncode, "last_lines": lines[-100:]}


def _output(*command: str) -> str | None:
    """What a command prints, or None where it does not exist or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def is_right(report: Report) -> bool:
    """Whether every part that must ran to its end, the device's bits are those of the twins, a
    graph gives what single launches give, and the tests pass.
    """
    parts = {name: part for name, part in report.items() if name != "command"}
    if any("error" in part for part in parts.values()):
        return False
    if any("skipped" in parts[name] for name in parts.keys() - NEEDS.keys()):
        return False
    bits = report["bits"]["result"]
    same = bits["differ"] == bits["counts_that_differ"] == 0
    graph = report["launches"]["result"].get("graph_equals_eager", True)
    passed = report["gpu_tests"]["result"].get("exit_code") == 0
    return bool(report["known_answers"]["result"] and same and graph and passed)


def main() -> None:
    """Run the suite and write ``DIR/gpu.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of the report")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--probe", action="store_true", help="launch each kernel once, no report")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device; `--device cpu` rehearses the suite")
    if arguments.probe:
        gpu_kernels.probe()
        return
    if arguments.out is None:
        parser.error("`--out` names the folder of the report")
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "gpu.json"
    report = Suite(arguments.device).run(path)
    print(path)
    sys.exit(0 if is_right(report) else 1)


if __name__ == "__main__":
    main()
