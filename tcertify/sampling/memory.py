"""Memory that runs out, and memory that is kept."""

from __future__ import annotations

import gc

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is one of torch's, CuPy's or the system's out-of-memory errors."""
    # CuPy's class derives from MemoryError; torch's allocator on the CPU has no class of its own.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def free_memory(device: torch.device) -> None:
    """Give back what nobody uses: garbage in cycles first, then what torch keeps of a GPU's."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def keep_freed_memory() -> None:
    """Have the C library keep what one forward pass frees for the next.

    glibc gives freed memory back to the system above a limit of twice the largest block that it
    has mapped and unmapped so far, and each pass would fault its activations in again. One such
    block of 32 MiB, never touched, raises the limit to 64 MiB; elsewhere nothing happens. Where
    there is no room for it, time is lost and nothing else.
    """
    try:
        torch.empty(2**25 - 2**16, dtype=torch.uint8)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
