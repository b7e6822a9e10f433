"""The .cu files under the sanitizers of g++, on buffers of exactly the size they may touch."""

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
        (MEMORY, "counting done"),
        (THREADS, "counting done"),
    ],
    ids=["memory of the noise", "memory of the votes", "threads of the votes"],
)
def test_the_kernels_are_clean(flags, says):
    result = run(flags)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, says, "")


@pytest.mark.parametrize("removed", [0, 1])
def test_a_barrier_that_is_removed_is_found(removed, tmp_path):
    pieces = (on_cpu.KERNELS / "counting.cu").read_text().split("__syncthreads();")
    assert len(pieces) == 3
    joined = "__syncthreads();".join(pieces[: removed + 1])
    broken = joined + ";" + "__syncthreads();".join(pieces[removed + 1 :])
    (tmp_path / "counting.cu").write_text(broken)
    result = run(THREADS, include=[tmp_path])
    assert result.returncode != 0
    assert "WARNING: ThreadSanitizer: data race" in result.stderr


@pytest.mark.parametrize("bound", ["i < count ? x[i] : 0.0f", "if (i < count) put("])
def test_a_bound_that_is_removed_is_found(bound, tmp_path):
    text = (on_cpu.KERNELS / "noise.cu").read_text()
    assert bound in text
    (tmp_path / "noise.cu").write_text(text.replace(bound, bound.replace("i < count", "true")))
    result = run((*MEMORY, "-DNOISE"), include=[tmp_path])
    assert result.returncode != 0
    assert "heap-buffer-overflow" in result.stderr
