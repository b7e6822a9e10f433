"""The .cu files under the sanitizers of g++, on buffers of exactly the size they may touch."""

import shutil
import subprocess

import pytest

from tests.kernels import on_cpu

pytestmark = on_cpu.needs_gcc

MEMORY = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
THREADS = ("-g", "-O1", "-fsanitize=thread")


def run(flags, include=()):
    program = on_cpu.compile_cpp("sanitized.cpp", *flags, include=include)
    return subprocess.run([program], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((*MEMORY, "-DNOISE"), "noise done"),
        ((*MEMORY, "-DINTEGER_NOISE"), "noise done"),
        (MEMORY, "counting done"),
        ((*THREADS, "-DINTEGER_NOISE"), "noise done"),
        (THREADS, "counting done"),
    ],
    ids=[
        *("memory of the noise", "memory of integer noise", "memory of the votes"),
        *("threads of integer noise", "threads of the votes"),
    ],
)
def test_the_kernels_are_clean(flags, says):
    result = run(flags)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, says, "")


@pytest.mark.parametrize(
    ("stem", "removed"), [("counting", 0), ("counting", 1), ("integer_noise", 0)]
)
def test_a_barrier_that_is_removed_is_found(stem, removed, tmp_path):
    barrier = "__syncthreads();"
    pieces = (on_cpu.KERNELS / f"{stem}.cu").read_text().split(barrier)
    assert len(pieces) == {"counting": 3, "integer_noise": 2}[stem]
    broken = barrier.join(pieces[: removed + 1]) + ";" + barrier.join(pieces[removed + 1 :])
    (tmp_path / f"{stem}.cu").write_text(broken)
    result = run((*THREADS, f"-D{stem.upper()}"), include=[tmp_path])
    assert result.returncode != 0
    assert "WARNING: ThreadSanitizer: data race" in result.stderr


@pytest.mark.parametrize("bound", ["i < count ? x[i] : 0.0f", "if (i < count) put("])
def test_a_bound_that_is_removed_is_found(bound, tmp_path):
    text = (on_cpu.KERNELS / "batch.cuh").read_text()
    assert bound in text
    (tmp_path / "batch.cuh").write_text(text.replace(bound, bound.replace("i < count", "true")))
    shutil.copy(on_cpu.KERNELS / "noise.cu", tmp_path)  # a file's own folder comes first
    result = run((*MEMORY, "-DNOISE"), include=[tmp_path])
    assert result.returncode != 0
    assert "heap-buffer-overflow" in result.stderr
