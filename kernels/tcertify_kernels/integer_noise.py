"""Integer noise: a Gaussian rounded to whole grey levels, drawn exactly from its distribution."""

from __future__ import annotations

import math
import operator
from fractions import Fraction
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from tcertify_kernels import _cuda
from tcertify_kernels._arguments import check_backend, check_tensor
from tcertify_kernels._batch import STREAM_BITS, Batch, check_bits, check_number
from tcertify_kernels._threads import split

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

#: In grey levels: below it rounded noise leaves most pixels unchanged.
LEAST_SPREAD = 0.3
#: Sizes of the noise that the tables can hold.
MAX_REACH = 2**15 - 1

_BLOCKS_PER_THREAD = 2**13  # below this, starting a thread costs more than it saves


def add_integer_noise(
    out: torch.Tensor,
    invalid: torch.Tensor,
    x: torch.Tensor,
    slot: torch.Tensor,
    image: torch.Tensor,
    sample: torch.Tensor,
    *,
    sigma: float,
    levels: int,
    seed: int,
    stream: int,
    backend: str | None = None,
) -> torch.Tensor:
    """Write ``out[b] = clamp(k + z, V - K, K) / V``, return `out`: k is ``x[slot[b]]`` in grey
    levels, V is `levels`, K = V + ceil(9 s), s = sigma V, and every element of z is a Gaussian of
    standard deviation s, rounded to the nearest whole number, drawn without any error from
    independent uniform bits. So ``out[b]`` is a function of k + N alone, N a real Gaussian.

    z depends on nothing but (seed, image[b], sample[b], stream) and its place in the image, and
    shares no bits with the noise of `add_noise`. A CPU tensor is written by compiled code on as
    many threads as torch uses, a CUDA tensor by a CUDA kernel on torch's current stream, with the
    same bits.

    Parameters
    ----------
    out : torch.Tensor
        Where to write, an array of shape ``(B, ...)`` in float32, float16 or bfloat16, contiguous,
        or of four dimensions and channels-last. The quotient is rounded to float32, then to that.
    invalid : torch.Tensor
        Set to whether each row of `out` must not vote, bool of shape ``(B,)``: one of its draws of
        64 bits ties with a threshold (once in some 10^10 rows of ImageNet's size), or, on a CUDA
        device, its slot, image or sample is out of range.
    x : torch.Tensor
        Images on the grid, float32, contiguous, of shape ``(S, ...)``. That they are on the grid
        is for the caller to see to, by `check_grid`.
    slot, image, sample : torch.Tensor
        As `add_noise` has them.
    sigma : float
        Standard deviation of the real noise, in the units of `x`. ``sigma * levels`` is taken as
        the exact product, and must be at least 0.3.
    levels : int
        Grey levels above 0: 255 for images of 8 bits. At most 32,767 with nine deviations.
    seed, stream : int
        Numbers of 64 and of 6 bits.
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
        the device: there the kernel fills with NaN, and marks invalid, each row whose slot, image
        or sample is out of range, and reads nothing out of bounds.
    ModuleNotFoundError
        If `out` is a CUDA tensor and CuPy is missing.

    Notes
    -----
    z is the inverse of the distribution function at a uniform: its size is the number of thresholds
    2^64 Phi(-(2 k - 1) / (2 s)), k = 1 .. K, above the uniform or its mirror image. Their whole
    parts are proved by interval arithmetic (Arb), so 64 bits decide unless they are equal to one.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0, 51, 102, 255]]) / 255
    >>> row = torch.zeros(2, dtype=torch.int64)
    >>> out, invalid = torch.empty(2, 4), torch.empty(2, dtype=torch.bool)
    >>> noise = {"sigma": 0.25, "levels": 255, "seed": 0, "stream": 1}
    >>> noisy = add_integer_noise(out, invalid, x, row.int(), row, torch.arange(2), **noise)
    >>> (255 * noisy).frac().abs().max() < 1e-4, invalid.any()
    (tensor(True), tensor(False))
    """
    check_backend(backend)
    table = tables(sigma, levels)
    key, tag = check_bits("seed", seed, 64), check_bits("stream", stream, STREAM_BITS)
    batch = Batch(out, x, slot, image, sample)
    batch.check()
    _check_invalid(invalid, out)
    invalid.zero_()
    if out.numel() == 0:
        return out
    noise = _Noise(invalid, table, key, tag)
    if backend == "torch":
        from tcertify_kernels import _noise_torch

        thresholds = _arrays(table.sigma, table.levels, out.device)[1]
        _noise_torch.fill_integer(*batch, invalid, thresholds, table.levels, key, tag)
    elif out.device.type == "cpu":
        _fill_on_host(batch, noise)
    else:
        _fill_on_device(batch, noise)
    return out


def check_grid(x: torch.Tensor, levels: int) -> None:
    """Refuse images with a pixel that is not k / levels, k in 0 .. levels, up to the rounding of
    float32: the sentence names the pixel, its value and the nearest level.

    Parameters
    ----------
    x : torch.Tensor
        Floating-point images, of any shape.
    levels : int
        Grey levels above 0.

    Examples
    --------
    >>> import torch
    >>> check_grid(torch.tensor([[0.0, 1 / 3]]), 3)
    >>> check_grid(torch.tensor([[0.0, 0.3]]), 3)
    Traceback (most recent call last):
    ValueError: `x` must be on the grid k / 3: pixel (0, 1) is 0.300000012, nearest level 1.
    """
    import torch

    whole = check_levels(levels)
    on = on_grid(x, whole)
    if not bool(on.all()):
        place = tuple(int(index) for index in torch.nonzero(~on)[0])
        value = x[place].item()
        level = _nearest(x[place].double() * whole, whole).item()
        known = f", nearest level {level:.0f}" if math.isfinite(level) else ""
        raise ValueError(
            f"`x` must be on the grid k / {whole}: pixel {place} is {value:.9g}{known}."
        )


def on_grid(x: torch.Tensor, levels: int) -> torch.Tensor:
    """Which pixels are on the grid, as `check_grid` has it: bool of the shape of `x`, on its
    device, for which the host does not wait. NaN and Inf are not.
    """
    scaled = x.double() * levels
    return (scaled - _nearest(scaled, levels)).abs() <= levels * 2.0**-22


def _nearest(scaled: torch.Tensor, levels: int) -> torch.Tensor:
    return scaled.round().clamp(0, levels)


class Tables(NamedTuple):
    """What the draws need of one (sigma, levels)."""

    sigma: float
    levels: int
    reach: int  # K: no noise is larger, nor is a noisy pixel
    thresholds: NDArray[np.uint64]  # (K,), growing
    guide: NDArray[np.uint32]

    @property
    def grid(self) -> tuple[np.float32, ...]:
        """For the kernels: levels, the clamps, and 1 / levels in two parts."""
        import numpy as np

        inverse = np.float32(1 / self.levels)
        rest = np.float32(1 / self.levels - float(inverse))
        clamps = np.float32(self.levels - self.reach), np.float32(self.reach)
        return np.float32(self.levels), *clamps, inverse, rest


def tables(sigma: float, levels: int) -> Tables:
    """The tables of one (sigma, levels), kept from call to call; refuses what they cannot hold."""
    return _tables(check_number("sigma", sigma), check_levels(levels))


@lru_cache(maxsize=64)
def _tables(sigma: float, levels: int) -> Tables:
    largest = reach(sigma, levels)
    thresholds = proved_thresholds(Fraction(sigma) * levels, largest)
    return Tables(sigma, levels, largest, thresholds, guide_of(thresholds))


def reach(sigma: float, levels: int) -> int:
    """K of `add_integer_noise`; a ValueError where the tables cannot hold it or sigma is too small.

    Examples
    --------
    >>> reach(0.25, 255)
    829
    """
    if not 0 < sigma < math.inf:
        raise ValueError(f"`sigma` must be positive and finite, got {sigma}.")
    spread = Fraction(sigma) * levels
    if spread < LEAST_SPREAD:
        raise ValueError(
            f"`sigma` must be at least {LEAST_SPREAD} grey levels, for rounded noise leaves most"
            f" pixels unchanged, got {float(spread):.3g} of {levels} levels."
        )
    noise = math.ceil(9 * spread)
    if levels + noise > MAX_REACH:
        raise ValueError(
            f"`levels` and nine standard deviations must be at most {MAX_REACH} grey levels, got"
            f" {levels} and {noise}."
        )
    return levels + noise


def proved_thresholds(spread: Fraction, reach: int) -> NDArray[np.uint64]:
    """The whole parts of 2^64 Phi(-(2 k - 1) / (2 spread)) for k = reach .. 1, each proved."""
    import numpy as np

    return np.array([_threshold(spread, k) for k in range(reach, 0, -1)], np.uint64)


def _threshold(spread: Fraction, k: int) -> int:
    """One whole part; the more bits, the narrower the interval, until it holds one only."""
    import flint

    deviations = (2 * k - 1) / (2 * spread)
    for bits in (192, 384, 768, 1536):
        with flint.ctx.workprec(bits):
            exact = flint.arb(flint.fmpq(deviations.numerator, deviations.denominator))
            tail = (exact / flint.arb(2).sqrt()).erfc() / 2
            whole = (tail * 2**64).floor().unique_fmpz()
        if whole is not None:
            return int(whole)
    raise ArithmeticError(f"threshold {k} of a spread of {spread} is not decided by 1,536 bits")


def guide_of(thresholds: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """The guide of integer_noise.cu: for each cell of places the size of the noise at its beginning
    and its only threshold, or that there are several.
    """
    import numpy as np

    from tcertify_kernels import _noise_numba as twin

    shift, reach = int(twin.GUIDE_SHIFT), len(thresholds)
    words = (thresholds >> np.uint64(32)).astype(np.float32)
    places = (words + twin.GUIDE_OFFSET).view(np.uint32).astype(np.int64)
    cells = np.arange(twin.GUIDE_SIZE) + int(twin.GUIDE_FIRST)
    passed = np.searchsorted(places, cells << shift)
    inside = np.searchsorted(places, cells + 1 << shift) - passed
    only = np.where(
        inside == 1, places[np.minimum(passed, reach - 1)] - (cells << shift), 1 << shift
    )
    entry = (reach - passed << 16) + only
    entry[(inside > 1) | (cells == cells[0])] = 1 << 31 | 1 << shift
    return (entry + (cells << shift) & 0xFFFFFFFF).astype(np.uint32)


class _Noise(NamedTuple):
    """What is added, checked."""

    invalid: torch.Tensor
    tables: Tables
    seed: int
    stream: int


def check_levels(levels: Any) -> int:
    """Return grey levels above 0 as an int; a ValueError for what the tables cannot hold."""
    try:
        whole = operator.index(levels)
    except TypeError:
        whole = 0
    if isinstance(levels, bool) or not 1 <= whole <= MAX_REACH:
        raise ValueError(f"`levels` must be a whole number from 1 to {MAX_REACH}, got {levels!r}.")
    return whole


def _check_invalid(invalid: Any, out: torch.Tensor) -> None:
    import torch

    check_tensor("invalid", invalid, (len(out),), torch.bool, out.device)


@cache
def _arrays(sigma: float, levels: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Guide and thresholds on a device, as signed numbers; never freed, since a CUDA graph may hold
    their addresses.
    """
    import numpy as np
    import torch

    table = _tables(sigma, levels)
    words, wide = table.guide.view(np.int32), table.thresholds.view(np.int64)
    return torch.from_numpy(words).to(device), torch.from_numpy(wide).to(device)


def _fill_on_host(batch: Batch, noise: _Noise) -> None:
    import numpy as np

    from tcertify_kernels import _noise_numba

    fill: Any = _noise_numba.fill_integer
    table = noise.tables
    drawn = noise.invalid.numpy(), table.guide, table.thresholds, table.grid
    arguments = *batch.on_host(), *drawn, np.uint64(noise.seed), noise.stream
    split(lambda first, last: fill(*arguments, first, last), batch.blocks, _BLOCKS_PER_THREAD)


def _fill_on_device(batch: Batch, noise: _Noise) -> None:
    import numpy as np

    table, device = noise.tables, batch.out.device
    guide, thresholds = _arrays(table.sigma, table.levels, device)
    name, grid, block, sizes = batch.on_device()
    levels, _, _, inverse, rest = table.grid
    arguments = (
        *batch.addresses(),
        *(tensor.data_ptr() for tensor in (noise.invalid, guide, thresholds)),
        np.uint64(noise.seed),
        *(*sizes, np.uint32(noise.stream), np.uint32(table.reach)),
        *(levels, inverse, rest),
    )
    _cuda.launch("integer_noise", f"integer_{name}", device, grid, block, arguments)
