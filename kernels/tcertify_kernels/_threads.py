"""Split work on the CPU over threads: as many as torch would use."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="tcertify_kernels")


def split(work: Callable[[int, int], None], count: int, least: int) -> None:
    """Call ``work(first, last)`` on equal parts of range(count), none smaller than `least`.

    The pool belongs to one process: a child made by fork starts its own.
    """
    import torch

    parts = max(1, min(torch.get_num_threads(), count // least))
    edges = [count * part // parts for part in range(parts + 1)]
    pool = _pool(os.getpid()) if parts > 1 else None
    others = (
        [pool.submit(work, *edges[part : part + 2]) for part in range(1, parts)] if pool else []
    )
    work(edges[0], edges[1])
    for other in others:
        other.result()
