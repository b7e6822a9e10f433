"""Whether the .cu files can be compiled on this machine; no device is needed to know."""

from __future__ import annotations

from tcertify_kernels._cuda import source

_ARCHITECTURE = "compute_80"


def compile_counting() -> str:
    """Compile counting.cu by NVRTC, for no device in particular, and return NVRTC's version.

    Raises
    ------
    Exception
        Of any kind: CuPy is not installed, NVRTC is not found (a class of its finder's own), or
        they do not fit each other.
    """
    from cupy_backends.cuda.libs import nvrtc

    options = (f"-arch={_ARCHITECTURE}", "--std=c++17", "--device-as-default-execution-space")
    program = nvrtc.createProgram(source("counting"), "counting.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
    finally:
        nvrtc.destroyProgram(program)
    return ".".join(map(str, nvrtc.getVersion()))
