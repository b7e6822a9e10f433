"""Fused Gaussian noise: one pass writes a batch of noisy copies of images."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, NamedTuple

from tcertify_kernels import _cuda
from tcertify_kernels._arguments import (
    check_backend,
    check_floating,
    check_range,
    check_real_range,
    check_tensor,
)
from tcertify_kernels._threads import split

if TYPE_CHECKING:
    import torch

#: Images are told apart by 32 bits of the counter, samples by 56, streams by 8.
MAX_IMAGES = 2**32
MAX_SAMPLES = 2**56
MAX_STREAMS = 2**8
MAX_ELEMENTS = 2**31

_SMALLEST, _LARGEST = 2.0**-126, 2.0**127  # of float32: normal numbers, and room to spare
_BLOCKS = 2**10  # fill a large device
_GROUPS_PER_THREAD = 8  # at most, where there are blocks enough
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
    mean: torch.Tensor | None = None,
    std: torch.Tensor | None = None,
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
        A number of 8 bits. Different streams are independent: 0 selects a class, 1 estimates.
    mean, std : torch.Tensor, optional
        Normalise, ``(out - mean[c]) * (1 / std[c])``: float32 of shape ``(C,)``, C the second
        dimension of `out`; both or neither. Each operation is rounded to float32.
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
    bits. No normal exceeds 6.77 in size; ``docs/kernels.md`` states what that costs.

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
    key, tag = _check_bits("seed", seed, 64), _check_bits("stream", stream, 8)
    _check_layout(out, x, slot, image, sample)
    _check_normalisation(out, mean, std)
    level = _check_sigma(sigma, out)
    if out.device.type == "cpu":
        check_range("slot", slot, len(x))
        check_range("image", image, MAX_IMAGES)
        check_range("sample", sample, MAX_SAMPLES)
    if out.numel() == 0:
        return out
    noise = _Noise(x, slot, image, sample, level, key, tag, mean, std)
    if backend == "torch":
        from tcertify_kernels import _noise_torch

        _noise_torch.fill(out, *noise)
    elif out.device.type == "cpu":
        _fill_on_host(out, noise)
    else:
        _fill_on_device(out, noise)
    return out


class _Noise(NamedTuple):
    """What goes into `out`, checked."""

    x: torch.Tensor
    slot: torch.Tensor
    image: torch.Tensor
    sample: torch.Tensor
    sigma: float | torch.Tensor
    seed: int
    stream: int
    mean: torch.Tensor | None
    std: torch.Tensor | None


def _check_bits(name: str, value: Any, bits: int) -> int:
    if isinstance(value, bool):
        raise TypeError(f"`{name}` must be a whole number, got {value}.")
    try:
        whole = operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be a whole number, got {value!r}.") from None
    if not 0 <= whole < 2**bits:
        raise ValueError(f"`{name}` must be in [0, 2**{bits}), got {whole}.")
    return whole


def _check_layout(
    out: torch.Tensor,
    x: torch.Tensor,
    slot: torch.Tensor,
    image: torch.Tensor,
    sample: torch.Tensor,
) -> None:
    import torch

    check_floating("out", out)
    if out.dim() < 2:
        raise ValueError(f"`out` must have shape (B, ...), got {tuple(out.shape)}.")
    elements = math.prod(out.shape[1:])
    if elements > MAX_ELEMENTS:
        raise ValueError(f"`out` must have at most 2**31 elements a row, got {elements}.")
    if not (out.is_contiguous() or _is_channels_last(out)):
        raise ValueError(f"`out` must be contiguous or channels-last, got strides {out.stride()}.")
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"`x` must be a torch tensor, got {type(x).__name__}.")
    rows = x.shape[0] if x.dim() else 0
    if rows == 0:
        raise ValueError(f"`x` must hold at least one image, got shape {tuple(x.shape)}.")
    check_tensor("x", x, (rows, *out.shape[1:]), torch.float32, out.device)
    check_tensor("slot", slot, (len(out),), torch.int32, out.device)
    check_tensor("image", image, (len(out),), torch.int64, out.device)
    check_tensor("sample", sample, (len(out),), torch.int64, out.device)


def _is_channels_last(out: torch.Tensor) -> bool:
    import torch

    return out.dim() == 4 and out.is_contiguous(memory_format=torch.channels_last)


def _check_normalisation(
    out: torch.Tensor, mean: torch.Tensor | None, std: torch.Tensor | None
) -> None:
    import torch

    if (mean is None) != (std is None):
        raise ValueError("`mean` and `std` must be given together, got one.")
    if mean is not None and std is not None:
        check_tensor("mean", mean, (out.shape[1],), torch.float32, out.device)
        check_tensor("std", std, (out.shape[1],), torch.float32, out.device)
        if out.device.type == "cpu":
            check_real_range("mean", mean, -(2.0**127), 2.0**127)
            check_real_range("std", std, _SMALLEST, 1 / _SMALLEST)


def _check_sigma(sigma: Any, out: torch.Tensor) -> float | torch.Tensor:
    import torch

    if isinstance(sigma, torch.Tensor):
        check_tensor("sigma", sigma, (len(out),), torch.float32, out.device)
        if out.device.type == "cpu":
            check_real_range("sigma", sigma, _SMALLEST, _LARGEST)
        return sigma
    if isinstance(sigma, (bool, str, bytes)):
        raise TypeError(f"`sigma` must be a number, got {sigma!r}.")
    try:
        level = float(sigma)
    except (TypeError, ValueError):
        raise TypeError(f"`sigma` must be a number, got {sigma!r}.") from None
    if not _SMALLEST <= level <= _LARGEST:
        raise ValueError(f"`sigma` must be in [2**-126, 2**127], got {level}.")
    return level


def _fill_on_host(out: torch.Tensor, noise: _Noise) -> None:
    import numpy as np
    import torch

    from tcertify_kernels import _noise_numba as twin

    fill: Any = twin.fill
    rows, channels_last = len(out), not out.is_contiguous()
    kind = {torch.float32: twin.FLOAT, torch.float16: twin.HALF, torch.bfloat16: twin.BFLOAT}
    flat = (out.permute(0, 2, 3, 1) if channels_last else out).detach().reshape(rows, -1)
    target = (flat if out.dtype == torch.float32 else flat.view(torch.uint16)).numpy()
    images = noise.x.detach().reshape(len(noise.x), -1).numpy()
    sigma = noise.sigma
    levels = np.array([sigma], np.float32) if isinstance(sigma, float) else sigma.detach().numpy()
    shift: Any = np.zeros(out.shape[1] if channels_last else 1, np.float32)
    scale = np.ones_like(shift)
    if noise.mean is not None and noise.std is not None:
        shift = noise.mean.detach().numpy()
        scale = np.float32(1) / noise.std.detach().numpy()
    arguments = (
        *(target, kind[out.dtype], images),
        *(noise.slot.numpy(), noise.image.numpy(), noise.sample.numpy(), levels),
        *(np.uint64(noise.seed), noise.stream, shift, scale, channels_last),
    )
    blocks = rows * -(-images.shape[1] // 4)
    split(lambda first, last: fill(*arguments, first, last), blocks, _BLOCKS_PER_THREAD)


def _fill_on_device(out: torch.Tensor, noise: _Noise) -> None:
    import numpy as np
    import torch

    rows, size = len(out), noise.x[0].numel()
    group = 4 if out.dtype == torch.float32 else 8  # elements of a 16-byte store
    if out.is_contiguous():
        layout, groups = "contiguous", -(-size // group)
    elif out.shape[1] == 3 and size % (3 * group) == 0 and _aligned(out, noise.x):
        layout, groups = "colour", size // (3 * group)
    else:
        layout, groups = "channels_last", -(-size // 4)
    name = f"{layout}_{str(out.dtype).removeprefix('torch.')}"
    sigma, sigmas, mean, std = 1.0, 0, 0, 0
    if isinstance(noise.sigma, float):
        sigma = noise.sigma
    else:
        sigmas = noise.sigma.data_ptr()
    if noise.mean is not None and noise.std is not None:
        name, mean, std = f"{name}_normalised", noise.mean.data_ptr(), noise.std.data_ptr()
    arguments = (
        *(tensor.data_ptr() for tensor in (out, *noise[:4])),
        *(sigmas, mean, std, np.uint64(noise.seed)),
        *map(np.uint32, (size, rows, len(noise.x), out.shape[1], noise.stream)),
        np.float32(sigma),
    )
    _cuda.launch("noise", name, out.device, *_launch_shape(rows, groups), arguments)


def _aligned(*tensors: torch.Tensor) -> bool:
    return all(tensor.data_ptr() % 16 == 0 for tensor in tensors)


def _launch_shape(rows: int, groups: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Grid and block: rows along y, the groups of a row along x, 256 threads a block.

    Each thread first works out its row: so it takes several groups of it, unless the blocks would
    be too few to fill a device.
    """
    if groups <= 32:
        across = 1 << (groups - 1).bit_length()
    else:  # the width that leaves the fewest threads idle at the end of a row
        across = min((256, 128, 64, 32), key=lambda width: -groups % width)
    down = 256 // across
    tall = min(-(-rows // down), 65535)
    wide = max(1, _BLOCKS // tall, -(-groups // (across * _GROUPS_PER_THREAD)))
    return (min(wide, -(-groups // across)), tall), (across, down)
