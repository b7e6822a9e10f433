"""Memory that runs out, and memory that is kept."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

#: Parameters of glibc's mallopt, and the values that it settles at by itself in a process that has
#: freed one block of 32 MiB: what is larger is mapped, and more than 64 MiB at the end go back.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_SETTLED = {_M_MMAP_MAX: 65536, _M_MMAP_THRESHOLD: 2**25, _M_TRIM_THRESHOLD: 2**26}
_KEEPING = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1}


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


def settle() -> None:
    """Have the C library keep up to 64 MiB of what one forward pass frees for the next.

    glibc would come to these limits by itself once a block of 32 MiB has been freed; until then it
    gives most of a small network's activations back, and each pass faults them in again. Elsewhere
    than under glibc nothing happens.
    """
    libc = _glibc()
    if libc is not None:
        _HOLDERS.settle(libc)


@contextmanager
def kept() -> Iterator[bool]:
    """Have the C library keep what is freed for what is allocated next; yield whether it does.

    torch has no cache of memory on a CPU: each activation of a forward pass is allocated and freed.
    glibc maps a block above its limit, 32 MiB at most, anew each time, and gives the free end of
    its heap back to the system; either way the kernel clears each page before it is written again,
    which took more than half of the time of a network with large activations. Here nothing is
    mapped and nothing given back until the last of those who asked for it leaves: then the limits
    are as glibc has them in a process that has freed a large block, and what is free is given back.
    Small blocks that settle between large ones may let the heap grow to several times the largest
    block, a few passes long.

    Only where the process allocates through glibc, and nobody has set its limits in the environment
    (``MALLOC_*``, ``GLIBC_TUNABLES``); elsewhere nothing happens.
    """
    libc = _glibc()
    if libc is None:
        yield False
        return
    _HOLDERS.enter(libc)
    try:
        yield True
    finally:
        _HOLDERS.leave(libc)


class _Holders:
    """How many want memory to be kept; the first has it so, the last ends it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def enter(self, libc: ctypes.CDLL) -> None:
        with self._lock:
            self._count += 1
            if self._count == 1:
                _set(libc, _KEEPING)

    def settle(self, libc: ctypes.CDLL) -> None:
        with self._lock:
            if self._count == 0:
                _set(libc, _SETTLED)

    def leave(self, libc: ctypes.CDLL) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0:
                _set(libc, _SETTLED)
                libc.malloc_trim(0)


_HOLDERS = _Holders()


def _set(libc: ctypes.CDLL, values: dict[int, int]) -> None:
    for parameter, value in values.items():
        libc.mallopt(parameter, value)


@cache
def _glibc() -> ctypes.CDLL | None:
    """Return the C library, if it is glibc, the process allocates through it and nobody else has
    set its limits.
    """
    if sys.platform != "linux" or _chosen_by_the_user():
        return None
    try:
        libc, process = ctypes.CDLL("libc.so.6"), ctypes.CDLL(None)
        libc.gnu_get_libc_version.restype = ctypes.c_char_p
        own, used = (ctypes.cast(lib.malloc, ctypes.c_void_p).value for lib in (libc, process))
    except (OSError, AttributeError):  # musl
        return None
    return libc if own == used else None  # else jemalloc or tcmalloc is loaded before it


def _chosen_by_the_user() -> bool:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return "glibc.malloc" in tunables or any(name.startswith("MALLOC_") for name in os.environ)
