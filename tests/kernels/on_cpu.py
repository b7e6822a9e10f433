"""Run the unchanged .cu files on the CPU: compiled by g++ behind shim/cuda.h, called by ctypes."""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent / "shim"
KERNELS = Path(__file__).parents[2] / "kernels" / "tcertify_kernels"
FLAGS = (
    *("-std=c++17", "-mfma", "-ffp-contract=off", "-fno-strict-aliasing", "-pthread"),
    *("-Wall", "-Werror", "-Wno-unknown-pragmas"),
)

needs_gcc = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


def compile_cpp(name, *flags, include=()):
    """Compile a file of the shim; the path of the result."""
    output = Path(tempfile.mkdtemp(prefix="tcertify-shim-")) / "out"
    folders = [f"-I{folder}" for folder in (HERE, *include, KERNELS)]
    command = ["g++", *FLAGS, *flags, *folders, "-x", "c++", str(HERE / name), "-o", str(output)]
    subprocess.run(command, check=True)
    return output


@functools.cache
def library():
    """The kernels as a shared library."""
    return ctypes.CDLL(str(compile_cpp("library.cpp", "-O2", "-shared", "-fPIC")))


_TYPES = {
    int: ctypes.c_void_p,
    np.uint64: ctypes.c_uint64,
    np.uint32: ctypes.c_uint32,
    np.float32: ctypes.c_float,
}
THREADS, INTEGER_BLOCK = (
    64,
    (16, 2),
)  # a thread of the block is a pthread, and nothing depends on their number


def check_launch(grid, block):
    """Assert that a device takes this grid of blocks of 256 threads."""
    assert all(0 < side <= 65535 for side in (grid[1], *block)), (grid, block)
    assert 0 < grid[0] < 2**31
    assert block[0] * block[1] == 256


def launch(stem, name, device, grid, block, arguments):
    """Stand in for tcertify_kernels._cuda.launch, with tensors on the CPU."""
    check_launch(grid, block)
    kernel = ctypes.cast(getattr(library(), name), ctypes.c_void_p)
    typed = [_TYPES[type(argument)](_plain(argument)) for argument in arguments]
    if stem == "noise":
        library().run_fill(kernel, *map(ctypes.c_uint32, (*grid, *block)), *typed)
    elif stem == "integer_noise":
        sizes = min(grid[0], 2), min(grid[1], 3), *INTEGER_BLOCK
        library().run_integer(kernel, *map(ctypes.c_uint32, sizes), *typed)
    else:
        blocks = ctypes.c_uint32(min(grid[0], 3))
        library().run_count(kernel, blocks, ctypes.c_uint32(THREADS), *typed)


def _plain(argument):
    return argument if isinstance(argument, int) else argument.item()
