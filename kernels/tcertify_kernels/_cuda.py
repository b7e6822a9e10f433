"""Compile and launch the .cu files through CuPy: at first use, for the device at hand."""

from __future__ import annotations

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
    except ImportError as error:
        raise ModuleNotFoundError(
            "CUDA tensors need CuPy, which is not installed: `pip install 'tcertify[cuda13]'`, or "
            "'tcertify[cuda12]' for a driver older than 580. `backend=\"torch\"` works without, "
            "but is many times slower.",
            name="cupy",
        ) from error
    return cupy.RawKernel(source(stem), name)


@cache
def source(stem: str) -> str:
    """The text of ``<stem>.cu``, with philox.cuh: CuPy's disk cache looks at the source alone."""
    folder = files("tcertify_kernels")
    shared = folder.joinpath("philox.cuh").read_text()
    return folder.joinpath(f"{stem}.cu").read_text().replace('#include "philox.cuh"\n', shared)
