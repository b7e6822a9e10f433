"""Run the compiled kernels on the CPU: NVRTC's PTX, with the flags that CuPy gives it, translated
into C (ptx_to_c.py), compiled by gcc behind shim/ptx.h and called by ctypes.

The shim of on_cpu.py runs the .cu files as g++ reads them; this runs what NVIDIA's compiler made of
them, inline PTX included. What is left to a GPU is ptxas.
"""

import ctypes
import functools
import io
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks import registers
from tcertify_kernels import _cuda
from tests.kernels import on_cpu, ptx_to_c

ARCHITECTURES = (75, 90)  # before and after conversions of two numbers at once
FLAGS = (  # compiling is most of the time: -O0
    *("-O0", "-fwrapv", "-fno-strict-aliasing", "-mfma", "-ffp-contract=off", "-shared", "-fPIC"),
    *("-Wall", "-Werror", "-Wno-unused-function", "-Wno-unused-label", "-Wno-unused-variable"),
    *("-Wno-unused-but-set-variable",),
)


def _has_nvrtc():
    try:
        registers.nvrtc_version()
    except Exception:  # CuPy raises its finder's own class when NVRTC is missing
        return False
    return True


needs_nvrtc = pytest.mark.skipif(not _has_nvrtc(), reason="CuPy or NVRTC is not installed")
needs_both = pytest.mark.skipif(
    not _has_nvrtc() or shutil.which("gcc") is None, reason="gcc, CuPy or NVRTC is not installed"
)


def ptx_of(source, architecture):
    """What NVRTC makes of CUDA code for an architecture."""
    from cupy.cuda import compiler

    program = compiler._NVRTCProgram(source, "kernels.cu", method="ptx")
    options = (*registers.OPTIONS, f"-arch=compute_{architecture}")
    ptx, _ = program.compile(options, io.StringIO())
    return ptx.decode() if isinstance(ptx, bytes) else ptx


class Program:
    """All kernels of one PTX file."""

    def __init__(self, ptx):
        code, self.parameters = ptx_to_c.translate(ptx)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "kernels.c").write_text(code)
            command = ["gcc", *FLAGS, f"-I{on_cpu.HERE}", "kernels.c", "-o", "kernels.so", "-lm"]
            subprocess.run(command, cwd=folder, check=True)
            self._library = ctypes.CDLL(str(Path(folder, "kernels.so")))
        self._library.last_fault.restype = ctypes.c_char_p

    def launch(self, name, grid, block, arguments, memory):
        """Run a kernel; `memory` holds (tensor, writable) for all that it may touch.

        Raises
        ------
        AssertionError
            If it touched anything else, an address that does not fit the width of the access, or
            threads that wait for each other did not meet.
        """
        assert list(map(_kind, arguments)) == self.parameters[name]
        ranges = [word for tensor, writable in memory for word in _range(tensor, writable)]
        self._library.set_memory(len(ranges) // 3, (ctypes.c_uint64 * len(ranges))(*ranges))
        sides = [(ctypes.c_uint32 * 2)(*side) for side in (grid, block)]
        words = (ctypes.c_uint64 * len(arguments))(*map(_bits, arguments))
        getattr(self._library, f"launch_{name}")(*sides, words)
        fault = self._library.last_fault().decode()
        assert not fault, f"{name}: {fault}"


@functools.cache
def program(stem, architecture):
    """The kernels of ``<stem>.cu``."""
    return Program(ptx_of(_cuda.source(stem), architecture))


def launcher(architecture, memory):
    """Return a stand-in for tcertify_kernels._cuda.launch, with tensors on the CPU."""

    def launch(stem, name, device, grid, block, arguments):
        on_cpu.check_launch(grid, block)
        program(stem, architecture).launch(name, grid, block, arguments, memory)

    return launch


def _range(tensor, writable):
    """First address, address after the last, and whether it may be written, of a dense tensor."""
    start = tensor.data_ptr()
    return start, start + tensor.nbytes, int(writable)


def _kind(argument):
    """The PTX type as which CuPy passes an argument."""
    return {int: "u64", np.uint64: "u64", np.uint32: "u32", np.float32: "f32"}[type(argument)]


def _bits(argument):
    return int(argument.view(np.uint32)) if isinstance(argument, np.float32) else int(argument)
