"""Everything that only a GPU can show, in one command and one JSON file.

``python -m benchmarks.gpu --out DIR`` needs torch, CuPy, numba, scipy and pytest, downloads nothing
and takes less than nine minutes. With ``--device cpu`` it rehearses itself in miniature: the same
code over tiny tensors, whose times mean nothing.

Each part is measured by itself; one that fails is recorded with its error, and the rest goes on.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import math
import platform
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.implementations import (
    CERTIFICATION,
    NOISE,
    VOTES,
    certification_case,
    check_certification,
    check_noise,
    check_votes,
    noise_case,
    vote_case,
)
from benchmarks.timing import best_seconds
from tcertify_kernels import add_noise, count_votes

ROOT = Path(__file__).parents[1]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

Report = dict[str, Any]


class Suite:
    """The parts of the suite, on one device and scale."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.small = device == "cpu"
        self.rounds = 1 if self.small else 20

    def run(self) -> Report:
        """Every part in turn: its result and its seconds, or the error that ended it."""
        report: Report = {"command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]])}
        parts: tuple[Callable[[], Any], ...] = (
            self.environment,
            self.ceilings,
            self.known_answers,
            self.bits,
            self.gpu_tests,
            self.noise,
            self.votes,
            self.launches,
            self.end_to_end,
            self.sanitizer,
            self.profile,
        )
        for part in parts:
            start, name = time.perf_counter(), part.__name__
            try:
                report[name] = {"result": part()}
            except Exception as error:
                traceback.print_exc()
                report[name] = {"error": f"{type(error).__name__}: {error}"}
            report[name]["seconds"] = round(time.perf_counter() - start, 2)
            print(f"{name}: {report[name]['seconds']} s, {report[name].get('error', 'done')}")
        return report

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
        if not self.small:
            card = torch.cuda.get_device_properties(0)
            found |= {
                "device": card.name,
                "capability": f"{card.major}.{card.minor}",
                "multiprocessors": card.multi_processor_count,
                "cache_bytes": card.L2_cache_size,
                "memory_bytes": card.total_memory,
                "driver": _output(
                    "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"
                ),
                "cuda_of_torch": torch.version.cuda,
            }
        return found

    def ceilings(self) -> Report:
        """What memory gives at best: bytes per second of fill, read (a sum) and copy."""
        size = 2**16 if self.small else 2**28
        a, b = (torch.zeros(size, device=self.device) for _ in range(2))
        seconds = {
            "fill": self._best(lambda _: a.fill_(1.0)),
            "read": self._best(lambda _: torch.sum(a)),
            "copy": self._best(lambda _: b.copy_(a)),
        }
        moved = {"fill": 4 * size, "read": 4 * size, "copy": 8 * size}
        self.bandwidth = {name: moved[name] / seconds[name] for name in seconds}
        return self.bandwidth

    def known_answers(self) -> bool:
        """Random123's known answers for philox.cuh, compiled for the device."""
        from tests.kernels.known_answers import KNOWN_ANSWERS

        words_of = _words_of_twin if self.small else _words_of_device
        return all(words_of(counter, key) == words for counter, key, words in KNOWN_ANSWERS)

    def bits(self) -> Report:
        """Noise and votes of the device against those of the CPU twins: how many differ."""
        shapes = [(3, 32, 32), (3, 5, 7), (1, 8, 8), (2, 3, 3)]
        if not self.small:
            shapes += [(3, 224, 224)]
        differ, elements = 0, 0
        for shape, dtype, last in itertools.product(shapes, DTYPES, (False, True)):
            rows = 7 if self.small else 64
            for normalised in (False, True):
                found = self._noise_bits(self.device, rows, shape, dtype, last, normalised)
                expected = self._noise_bits("cpu", rows, shape, dtype, last, normalised)
                differ += int((found.cpu() != expected).sum())
                elements += expected.numel()
        votes_differ = 0
        for classes, dtype in itertools.product((2, 10, 100, 1000, 21_841), DTYPES):
            case = vote_case(50 if self.small else 2000, classes, dtype, "cpu")
            case.logits[::7] = case.logits[::7].round()
            case.logits[3, 1] = math.nan
            expected = count_votes(case.counts.clone(), case.logits, case.slot)
            moved = (t.to(self.device) for t in (case.counts, case.logits, case.slot))
            votes_differ += int((count_votes(*moved).cpu() != expected).sum())
        return {"elements": elements, "differ": differ, "counts_that_differ": votes_differ}

    def _noise_bits(
        self,
        device: str,
        rows: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        channels_last: bool,
        normalised: bool,
    ) -> torch.Tensor:
        case = noise_case((rows, *shape), dtype, device, channels_last)
        each = torch.linspace(0.2, 0.6, shape[0], device=device) if normalised else None
        arrays = case.out, case.x, case.slot, case.image + 2**32 - 1, case.sample + 2**40
        return add_noise(*arrays, sigma=0.3, seed=2**63 + 1, stream=1, mean=each, std=each)

    def gpu_tests(self) -> Report:
        """The tests marked gpu, where what they import is installed."""
        missing = [name for name in ("flint", "hypothesis") if find_spec(name) is None]
        if missing:
            return {"missing": missing}
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/kernels"]
        command += [] if self.small else ["--require-gpu"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
        summary = done.stdout.strip().splitlines()[-1:]
        return {"exit_code": done.returncode, "summary": summary}

    def noise(self) -> list[Report]:
        """Noise over shapes, dtypes and layouts: ours, torch's operations, the field's path."""
        shapes = [(1000, 3, 32, 32), (256, 3, 224, 224)]
        shapes = [(10, 3, 32, 32)] if self.small else shapes
        table = []
        for shape, dtype, last in itertools.product(shapes, DTYPES, (False, True)):
            width = torch.empty((), dtype=dtype).element_size()
            # together more than any cache holds, and so from memory
            copies = 2 if self.small else max(2, 2**30 // (math.prod(shape) * width))
            cases = [noise_case(shape, dtype, self.device, last) for _ in range(copies)]
            row: Report = {"shape": shape, "dtype": str(dtype), "channels_last": last}
            for name in ("ours", "torch", "field", "normals"):
                check_noise(cases[0], NOISE[name](cases[0]), name)
                row[f"{name}_microseconds"] = 1e6 * self._best(NOISE[name], cases)
            written = math.prod(shape) * width / (row["ours_microseconds"] / 1e6)
            row["ours_of_fill_bandwidth"] = written / self.bandwidth["fill"]
            row["field_over_ours"] = row["field_microseconds"] / row["ours_microseconds"]
            row["normals_over_ours"] = row["normals_microseconds"] / row["ours_microseconds"]
            table.append(row)
        return table

    def votes(self) -> list[Report]:
        """Votes over numbers of classes and dtypes: ours, torch's operations, the field's loop."""
        table = []
        for classes, dtype in itertools.product((10, 1000, 21_841), DTYPES):
            rows = 20 if self.small else min(2**28 // classes, 1_000_000)
            cases = [vote_case(rows, classes, dtype, self.device) for _ in range(2)]
            row: Report = {"rows": rows, "classes": classes, "dtype": str(dtype)}
            for name in ("ours", "torch", "field"):
                before = cases[0].counts.clone()
                check_votes(cases[0], before, VOTES[name](cases[0]))
                rounds = 1 if name == "field" else self.rounds
                row[f"{name}_microseconds"] = 1e6 * self._best(VOTES[name], cases, rounds)
            read = cases[0].logits.nbytes / (row["ours_microseconds"] / 1e6)
            row["ours_of_read_bandwidth"] = read / self.bandwidth["read"]
            table.append(row)
        return table

    def launches(self) -> Report:
        """Microseconds of the host to launch our kernels on a small batch, or a graph of both."""
        noise = noise_case((8, 3, 32, 32), torch.float32, self.device)
        votes = vote_case(8, 10, torch.float32, self.device)

        def step(_: object = None) -> None:
            NOISE["ours"](noise)
            VOTES["ours"](votes)

        step()
        found = {
            "noise_microseconds": self._host_microseconds(lambda: NOISE["ours"](noise)),
            "votes_microseconds": self._host_microseconds(lambda: VOTES["ours"](votes)),
        }
        if not self.small:
            eager = noise.out.clone()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            noise.out.fill_(math.nan)
            graph.replay()
            torch.cuda.synchronize()
            found["graph_equals_eager"] = torch.equal(noise.out, eager)
            found["graph_microseconds"] = self._host_microseconds(graph.replay)
        return found

    def end_to_end(self) -> Report:
        """Certifying one image: seconds, ours and the field's loop around the same network."""
        n, batch_size = (200, 100) if self.small else (100_000, 1000)
        case = certification_case(self.device, n, batch_size)
        found: Report = {"n": n, "batch_size": batch_size}
        for name, certify in CERTIFICATION.items():
            check_certification(case, certify(case), name)
            found[f"{name}_seconds"] = self._best(certify, [case], 1 if self.small else 3)
        return found

    def sanitizer(self) -> Report:
        """What compute-sanitizer's memcheck and racecheck say of the GPU tests of the kernels."""
        found = {}
        for tool in ("memcheck", "racecheck"):
            command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
            found[tool] = _tool([*command, sys.executable, "-m", "benchmarks.gpu", "--probe"])
        return found

    def profile(self) -> Report:
        """What ncu says of one launch of each kernel."""
        command = ["ncu", "--set", "basic", "--kernel-name-base", "function"]
        return _tool([*command, sys.executable, "-m", "benchmarks.gpu", "--probe"])

    def _best(
        self, work: Callable[[Any], object], cases: Any = (None,), rounds: int | None = None
    ) -> float:
        return best_seconds(work, cases, self.device, rounds or self.rounds)

    def _host_microseconds(self, work: Callable[[], object], repeats: int = 300) -> float:
        """Processor time of one call, while the device keeps up."""
        found = []
        for _ in range(3):
            if not self.small:
                torch.cuda.synchronize()
            before = time.perf_counter()
            for _ in range(repeats):
                work()
            found.append((time.perf_counter() - before) / repeats)
        return 1e6 * min(found)


def probe() -> None:
    """Launch each kernel once on a small batch, for the tools that watch a process."""
    for dtype, last in itertools.product(DTYPES, (False, True)):
        for shape in ((8, 3, 16, 16), (5, 3, 5, 7)):
            NOISE["ours"](noise_case(shape, dtype, "cuda", last))
        for classes in (10, 1000):
            VOTES["ours"](vote_case(70, classes, dtype, "cuda"))
    torch.cuda.synchronize()


def _words_of_twin(counter: list[int], key: list[int]) -> list[int]:
    import numpy as np

    from tcertify_kernels import _noise_numba

    return [int(word) for word in _noise_numba.philox(*map(np.uint32, (*counter, *key)))]


def _words_of_device(counter: list[int], key: list[int]) -> list[int]:
    """Philox's words by a kernel around philox.cuh."""
    import cupy
    import numpy as np

    from tcertify_kernels import _cuda

    code = _cuda.source("noise") + (
        'extern "C" __global__ void words(u32 a, u32 b, u32 c, u32 d, u32 k0, u32 k1, uint4* out)\n'
        "{ *out = philox(make_uint4(a, b, c, d), k0, k1); }\n"
    )
    out = torch.zeros(4, dtype=torch.int32, device="cuda")
    torch.cuda.synchronize()
    arguments = (*map(np.uint32, (*counter, *key)), out.data_ptr())
    cupy.RawKernel(code, "words")((1,), (1,), arguments)
    cupy.cuda.runtime.deviceSynchronize()
    return [word & 0xFFFFFFFF for word in out.tolist()]


def _output(*command: str) -> str | None:
    """What a command prints, or None where it does not exist or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _tool(command: list[str]) -> Report:
    """The exit code and the last lines of a tool, or that it is not there."""
    if shutil.which(command[0]) is None:
        return {"missing": command[0]}
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90)
    except subprocess.TimeoutExpired:
        return {"timeout": 90}
    lines = (done.stdout + done.stderr).splitlines()
    return {"exit_code": done.returncode, "last_lines": lines[-200:]}


def is_right(report: Report) -> bool:
    """Whether every part ran to its end, and the device's bits are those of the twins."""
    ended = all("error" not in part for part in report.values())
    if not (ended and report["known_answers"]["result"]):
        return False
    bits = report["bits"]["result"]
    return bool(bits["differ"] == bits["counts_that_differ"] == 0)


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
        probe()
        return
    if arguments.out is None:
        parser.error("`--out` names the folder of the report")
    report = Suite(arguments.device).run()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "gpu.json"
    path.write_text(json.dumps(report, indent=1, default=str) + "\n")
    print(path)
    sys.exit(0 if is_right(report) else 1)


if __name__ == "__main__":
    main()
