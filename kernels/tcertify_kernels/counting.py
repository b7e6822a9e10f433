"""Vote counting: the argmax of each row of logits, added where the votes are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tcertify_kernels._arguments import check_backend, check_floating, check_range, check_tensor
from tcertify_kernels._threads import split

if TYPE_CHECKING:
    import torch

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
        Votes so far, int64 of shape ``(S, C + 1)``, contiguous; the last column counts invalid votes.
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
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"`logits` must have shape (B, C) with C at least 2, got {tuple(logits.shape)}."
        )
    check_tensor("logits", logits, tuple(logits.shape), logits.dtype, logits.device)
    if not isinstance(counts, torch.Tensor):
        raise TypeError(f"`counts` must be a torch tensor, got {type(counts).__name__}.")
    slots = counts.shape[0] if counts.dim() else 0
    check_tensor("counts", counts, (slots, logits.shape[1] + 1), torch.int64, logits.device)
    check_tensor("slot", slot, (len(logits),), torch.int32, logits.device)
    if limit is not None:
        check_tensor("limit", limit, (), torch.int64, logits.device)
    if logits.device.type == "cpu":
        check_range("slot", slot, slots)
    _count_on_host(counts, logits, slot, limit)
    return counts


def _count_on_host(
    counts: torch.Tensor, logits: torch.Tensor, slot: torch.Tensor, limit: torch.Tensor | None
) -> None:
    import numpy as np
    import torch

    from tcertify_kernels import _counting_numba as twin

    rows = len(logits) if limit is None else min(max(int(limit), 0), len(logits))
    patterns, size, infinity = {
        torch.float32: (torch.int32, np.int32(0x7FFFFFFF), 0x7F800000),
        torch.float16: (torch.int16, np.int16(0x7FFF), 0x7C00),
        torch.bfloat16: (torch.int16, np.int16(0x7FFF), 0x7F80),
    }[logits.dtype]
    bits = logits.detach().view(patterns).numpy()
    votes = np.empty(rows, np.int64)
    split(
        lambda first, last: twin.vote(votes, bits, infinity, size, first, last),
        rows,
        max(1, _LOGITS_PER_THREAD // logits.shape[1]),
    )
    twin.tally(counts.numpy(), votes, slot.numpy())
