"""Fused Gaussian noise: one pass writes a batch of noisy copies of images."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from tcertify_kernels import _cuda
from tcertify_kernels._arguments import check_backend, check_real_range, check_tensor
from tcertify_kernels._batch import STREAM_BITS, Batch, check_bits, check_number
from tcertify_kernels._threads import split

if TYPE_CHECKING:
    import numpy as np
    import torch

_SMALLEST, _LARGEST = 2.0**-126, 2.0**127  # of float32: normal numbers, and room to spare
_BLOCKS_PER_THREAD = 2**14  # below this, starting a thread costs more than it saves


def add_noise(
    out: torch.Tensor,
    x: torch.Tensor,
    slot: torch.Tensor,
    image: torch.Tensor,
    sample: torch.Tensor,
    *,
    sigma: float | torch.Tensor,
    seed: int,
    stream: int,
    backend: str | None = None,
) -> torch.Tensor:
    """Write ``out[b] = x[slot[b]] + sigma * z(seed, image[b], sample[b], stream)``, return `out`;
    every element of z is a standard normal that depends on nothing but these numbers and its
    place in the image: not on the batch, its order, the layout, the dtype, the device or the
    number of threads.

    A CPU tensor is written by compiled code on as many threads as torch uses, a CUDA tensor by a
    CUDA kernel on torch's current stream, with the same bits.

    Parameters
    ----------
    out : torch.Tensor
        Where to write, an array of shape ``(B, ...)`` in float32, float16 or bfloat16, contiguous,
        or of four dimensions and channels-last. The sum is formed in float32 and rounded once.
    x : torch.Tensor
        Images, float32, contiguous, of shape ``(S, ...)``.
    slot : torch.Tensor
        The row of `x` that each row of `out` is a copy of, int32 of shape ``(B,)``.
    image, sample : torch.Tensor
        The numbers of image and sample, int64 of shape ``(B,)``, below 2**32 and 2**56.
    sigma : float or torch.Tensor
        Standard deviation of the noise, positive and finite; or one a row, float32 ``(B,)``.
    seed : int
        A number of 64 bits, the key of the generator.
    stream : int
        A number of 6 bits. Different streams are independent: 0 selects a class, 1 estimates.
    backend : {None, "torch"}
        None takes what fits the device of `out`. "torch" computes the same bits by plain torch
        operations, many times slower; it needs no CuPy on a CUDA device.

    Returns
    -------
    torch.Tensor
        `out`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, dtype, device, shape, layout or range. Nothing has been
        written then. The *contents* of CUDA tensors are not read by the host, which would wait for
        the device: there the kernel fills with NaN each row whose slot, image, sample or sigma is
        out of range, and reads nothing out of bounds.
    ModuleNotFoundError
        If `out` is a CUDA tensor and CuPy is missing.

    Notes
    -----
    Philox4x32-10 with counter (block of four elements in C order, image, low word of the sample,
    stream and high bits of the sample) and the seed as its key, then Box-Muller on uniforms of 32
    bits, and of 64 in the far tail. No normal exceeds 9.4926 in size; ``docs/kernels.md`` states
    what that costs.

    Examples
    --------
    >>> import torch
    >>> x = torch.zeros(1, 4)
    >>> row = torch.zeros(2, dtype=torch.int64)
    >>> sample = torch.tensor([5, 6])
    >>> add_noise(torch.empty(2, 4), x, row.int(), row, sample, sigma=0.5, seed=0, stream=1).shape
    torch.Size([2, 4])
    """
    check_backend(backend)
    key, tag = check_bits("seed", seed, 64), check_bits("stream", stream, STREAM_BITS)
    batch = Batch(out, x, slot, image, sample)
    batch.check()
    noise = _Noise(_check_sigma(sigma, out), key, tag)
    if out.numel() == 0:
        return out
    if backend == "torch":
        from tcertify_kernels import _noise_torch

        _noise_torch.fill(*batch, *noise)
    elif out.is_cpu:
        _fill_on_host(batch, noise)
    else:
        _fill_on_device(batch, noise)
    return out


class _Noise(NamedTuple):
    """What is added, checked."""

    sigma: float | torch.Tensor
    seed: int
    stream: int


def _check_sigma(sigma: Any, out: torch.Tensor) -> float | torch.Tensor:
    import torch

    if isinstance(sigma, torch.Tensor):
        check_tensor("sigma", sigma, (len(out),), torch.float32, out.device)
        if out.device.type == "cpu":
            check_real_range("sigma", sigma, _SMALLEST, _LARGEST)
        return sigma
    level = check_number("sigma", sigma)
    if not _SMALLEST <= level <= _LARGEST:
        raise ValueError(f"`sigma` must be in [2**-126, 2**127], got {level}.")
    return level


def _fill_on_host(batch: Batch, noise: _Noise) -> None:
    import numpy as np

    from tcertify_kernels import _noise_numba

    fill: Any = _noise_numba.fill
    sigma = noise.sigma
    levels = np.array([sigma], np.float32) if isinstance(sigma, float) else sigma.detach().numpy()
    arguments = *batch.on_host(), levels, np.uint64(noise.seed), noise.stream
    split(lambda first, last: fill(*arguments, first, last), batch.blocks, _BLOCKS_PER_THREAD)


def _fill_on_device(batch: Batch, noise: _Noise) -> None:
    if isinstance(noise.sigma, float):
        sigma, sigmas = noise.sigma, 0
    else:
        sigma, sigmas = 1.0, noise.sigma.data_ptr()
    name, grid, block, sizes = batch.on_device()
    seed, stream, level = _numbers(noise.seed, noise.stream, sigma)
    arguments = *batch.addresses(), sigmas, seed, *sizes, stream, level
    _cuda.launch("noise", name, batch.out.device, grid, block, arguments)


@lru_cache(maxsize=256)
def _numbers(seed: int, stream: int, sigma: float) -> tuple[np.uint64, np.uint32, np.float32]:
    """Typed as the kernel wants them: the same for every batch of a run."""
    import numpy as np

    return np.uint64(seed), np.uint32(stream), np.float32(sigma)
