"""Compile and launch the .cu files through CuPy: at first use, for the device at hand."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch


class Stream(NamedTuple):
    """What CuPy asks of a stream: its address."""

    ptr: int


def launch(
    stem: str,
    name: str,
    device: torch.device,
    grid: tuple[int, int],
    block: tuple[int, int],
    arguments: tuple[Any, ...],
) -> None:
    """Launch a kernel on torch's current stream of `device`.

    `arguments` are addresses as int and NumPy scalars of the kernel's own types: CuPy would hand a
    Python float over as float64.
    """
    import torch

    compiled = kernel(stem, name)
    with torch.cuda.device(device):
        stream = Stream(torch.cuda.current_stream(device).cuda_stream)
        compiled(grid, block, arguments, stream=stream)


@cache
def kernel(stem: str, name: str) -> Any:
    """A kernel of ``<stem>.cu``; CuPy compiles it at its first call on each device."""
    try:
        import cupy
    except OSError as error:
        raise OSError(
            f"CuPy cannot keep compiled kernels in {error.filename}: set CUPY_CACHE_DIR to a folder"
            " that is writable."
        ) from None
    except ImportError as error:
        raise ModuleNotFoundError(
            "CUDA tensors need CuPy, which is not installed: `pip install cupy-cuda13x "
            "'nvidia-cuda-nvrtc==13.0.*' 'nvidia-cuda-runtime==13.0.*'`, or, for a driver older "
            "than 580, `pip install cupy-cuda12x nvidia-cuda-nvrtc-cu12 "
            'nvidia-cuda-runtime-cu12`. `backend="torch"` works without, '
            "but is many times slower.",
            name="cupy",
        ) from error
    return cupy.RawKernel(source(stem), name)


@cache
def source(stem: str) -> str:
    """The text of ``<stem>.cu`` with the headers that it includes, each once: CuPy's disk cache
    looks at the source alone.
    """
    return _with_headers(f"{stem}.cu", set())


def _with_headers(name: str, seen: set[str]) -> str:
    if name in seen:
        return ""
    seen.add(name)
    text = files("tcertify_kernels").joinpath(name).read_text().replace("#pragma once\n", "")
    return re.sub(r'#include "(\w+\.cuh)"\n', lambda header: _with_headers(header[1], seen), text)
