"""Vote counting: the argmax of each row of logits, added where the votes are kept."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import TYPE_CHECKING

from tcertify_kernels import _cuda
from tcertify_kernels._arguments import check_backend, check_floating, check_range, check_tensor
from tcertify_kernels._threads import split

if TYPE_CHECKING:
    import numpy as np
    import torch

_FEW_CLASSES = 128  # counted in shared memory first, which counting.cu holds room for
_THREADS, _BLOCKS = 256, 2**12
_adding = threading.Lock()
_LOGITS_PER_THREAD = 2**17  # below this, starting a thread costs more than it saves


def count_votes(
    counts: torch.Tensor,
    logits: torch.Tensor,
    slot: torch.Tensor,
    *,
    limit: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """Add one vote for each row of `logits` to ``counts[slot[b], class]`` and return `counts`: for
    the class of the largest logit, the lowest class index where several are equal, and for the
    last column, "invalid", if any logit of the row is NaN.

    Parameters
    ----------
    counts : torch.Tensor
        Votes so far, int64 of shape ``(S, C + 1)``, contiguous; the last column is "invalid".
    logits : torch.Tensor
        Shape ``(B, C)``, float32, float16 or bfloat16, contiguous, C at least 2.
    slot : torch.Tensor
        The row of `counts` that each row votes in, int32 of shape ``(B,)``.
    limit : torch.Tensor, optional
        A 0-d int64 tensor on the device: rows from this number on are padding and do not vote.
    backend : {None, "torch"}
        None takes what fits the device of `counts`; "torch" computes the same by plain torch
        operations, slower; it needs no CuPy on a CUDA device.

    Returns
    -------
    torch.Tensor
        `counts`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, dtype, device, shape, layout or range. Nothing has been
        counted then. The contents of CUDA tensors are not read by the host: there a row whose slot
        is out of range does not vote, so that the row sums of `counts` tell.
    ModuleNotFoundError
        If `counts` is a CUDA tensor and CuPy is missing.

    Examples
    --------
    >>> import torch
    >>> logits = torch.tensor([[0.0, 2.0, 2.0], [1.0, 0.0, torch.nan]])
    >>> counts = torch.zeros(1, 4, dtype=torch.int64)
    >>> count_votes(counts, logits, torch.zeros(2, dtype=torch.int32))
    tensor([[0, 1, 0, 1]])
    """
    import torch

    check_backend(backend)
    check_floating("logits", logits)
    shape, device = logits.shape, logits.device
    if len(shape) != 2 or shape[1] < 2:
        raise ValueError(f"`logits` must have shape (B, C) with C at least 2, got {tuple(shape)}.")
    rows, classes = shape
    check_tensor("logits", logits, shape, logits.dtype, device)
    if not isinstance(counts, torch.Tensor):
        raise TypeError(f"`counts` must be a torch tensor, got {type(counts).__name__}.")
    slots = counts.shape[0] if counts.dim() else 0
    check_tensor("counts", counts, (slots, classes + 1), torch.int64, device)
    check_tensor("slot", slot, (rows,), torch.int32, device)
    if limit is not None:
        check_tensor("limit", limit, (), torch.int64, device)
    if logits.is_cpu:
        check_range("slot", slot, slots)
    if rows == 0:
        return counts
    if backend == "torch":
        _count_in_torch(counts, logits, slot, limit)
    elif logits.is_cpu:
        _count_on_host(counts, logits, slot, limit)
    else:
        _count_on_device(counts, logits, slot, limit)
    return counts


def _count_on_host(
    counts: torch.Tensor, logits: torch.Tensor, slot: torch.Tensor, limit: torch.Tensor | None
) -> None:
    import numpy as np
    import torch

    from tcertify_kernels import _counting_numba as twin

    rows = len(logits) if limit is None else min(max(int(limit), 0), len(logits))
    word = torch.int32 if logits.dtype == torch.float32 else torch.int16
    bits = logits.detach().view(word).reshape(-1).numpy()
    classes, infinity = logits.shape[1], _infinity(logits.dtype)
    places = slot.numpy()
    total = counts.numpy()

    def work(first: int, last: int) -> None:
        alone = last - first == rows
        own = total if alone else np.zeros_like(total)
        twin.count(own, bits, places, classes, infinity, first, last)
        if not alone:
            with _adding:
                np.add(total, own, out=total)

    # a thread's own counts are worth while where they are few beside the logits
    least = max(_LOGITS_PER_THREAD, 8 * total.size) // classes
    split(work, rows, max(1, least))


def _count_on_device(
    counts: torch.Tensor, logits: torch.Tensor, slot: torch.Tensor, limit: torch.Tensor | None
) -> None:
    name, grid, numbers = _launch(logits.shape, counts.shape[0], logits.dtype)
    arguments = (
        counts.data_ptr(),
        logits.data_ptr(),
        slot.data_ptr(),
        0 if limit is None else limit.data_ptr(),
        *numbers,
    )
    _cuda.launch("counting", name, logits.device, grid, (_THREADS, 1), arguments)


@lru_cache(maxsize=256)
def _launch(
    shape: tuple[int, int], slots: int, dtype: torch.dtype
) -> tuple[str, tuple[int, int], tuple[np.uint32, ...]]:
    """Kernel, grid and numbers of a launch: the same for every batch of a run, and kept."""
    import numpy as np

    rows, classes = shape
    few = classes <= _FEW_CLASSES
    name = f"{'few' if few else 'many'}_{8 * dtype.itemsize}"
    blocks = -(-rows // (_THREADS // 2 if few else _THREADS // 32))  # rows a block takes at a time
    numbers = tuple(map(np.uint32, (rows, slots, classes, _infinity(dtype))))
    return name, (min(blocks, _BLOCKS), 1), numbers


def _count_in_torch(
    counts: torch.Tensor, logits: torch.Tensor, slot: torch.Tensor, limit: torch.Tensor | None
) -> None:
    import torch

    rows, classes = logits.shape
    column = torch.arange(classes, device=logits.device)
    best = logits == logits.amax(dim=1, keepdim=True)  # nowhere, if a NaN is in the row
    vote = torch.where(best, column, classes).amin(dim=1)
    live = (slot >= 0) & (slot < len(counts))
    if limit is not None:
        live &= torch.arange(rows, device=logits.device) < limit
    place = torch.where(live, slot * (classes + 1) + vote, 0)
    counts.view(-1).scatter_add_(0, place, live.long())


def _infinity(dtype: torch.dtype) -> int:
    """The bits of infinity: those of a NaN, without its sign, are above."""
    import torch

    return {torch.float32: 0x7F800000, torch.float16: 0x7C00, torch.bfloat16: 0x7F80}[dtype]
