"""A batch of noisy images, as both kinds of noise take it: its checks, and its way to a kernel."""

from __future__ import annotations

import math
import operator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from tcertify_kernels._arguments import check_floating, check_range, check_tensor

if TYPE_CHECKING:
    import numpy as np
    import torch

#: Images are told apart by 32 bits of the counter, samples by 56, streams by 6.
MAX_IMAGES = 2**32
MAX_SAMPLES = 2**56
MAX_ELEMENTS = 2**31
STREAM_BITS = 6

_BLOCKS = 2**10  # fill a large device
_GROUPS_PER_THREAD = 8  # at most, where there are blocks enough


class Batch(NamedTuple):
    """The tensors of a batch."""

    out: torch.Tensor
    x: torch.Tensor
    slot: torch.Tensor
    image: torch.Tensor
    sample: torch.Tensor

    @property
    def blocks(self) -> int:
        """Blocks of four elements, of which each row begins a new one."""
        return self.out.shape[0] * -(-math.prod(self.out.shape[1:]) // 4)

    def check(self) -> None:
        """Refuse wrong types, dtypes, devices, shapes, strides and, on the CPU, contents."""
        import torch

        out, x = self.out, self.x
        check_floating("out", out)
        shape, device = out.shape, out.device
        if len(shape) < 2:
            raise ValueError(f"`out` must have shape (B, ...), got {tuple(shape)}.")
        rows, *image = shape
        elements = math.prod(image)
        if elements > MAX_ELEMENTS:
            raise ValueError(f"`out` must have at most 2**31 elements a row, got {elements}.")
        if not (out.is_contiguous() or _is_channels_last(out)):
            strides = out.stride()
            raise ValueError(f"`out` must be contiguous or channels-last, got strides {strides}.")
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"`x` must be a torch tensor, got {type(x).__name__}.")
        slots = x.shape[0] if x.dim() else 0
        if slots == 0:
            raise ValueError(f"`x` must hold at least one image, got shape {tuple(x.shape)}.")
        check_tensor("x", x, (slots, *image), torch.float32, device)
        check_tensor("slot", self.slot, (rows,), torch.int32, device)
        check_tensor("image", self.image, (rows,), torch.int64, device)
        check_tensor("sample", self.sample, (rows,), torch.int64, device)
        if out.is_cpu:
            check_range("slot", self.slot, slots)
            check_range("image", self.image, MAX_IMAGES)
            check_range("sample", self.sample, MAX_SAMPLES)

    def on_host(self) -> tuple[Any, ...]:
        """The arrays and numbers that both numba twins begin with: rows are flat, channels last if
        the number of channels is above 1.
        """
        import torch

        from tcertify_kernels import _noise_numba as twin

        out, channels_last = self.out.detach(), not self.out.is_contiguous()
        flat = (out.permute(0, 2, 3, 1) if channels_last else out).reshape(len(out), -1)
        target = (flat if out.dtype == torch.float32 else flat.view(torch.uint16)).numpy()
        kind = {torch.float32: twin.FLOAT, torch.float16: twin.HALF, torch.bfloat16: twin.BFLOAT}
        images = self.x.detach().reshape(len(self.x), -1).numpy()
        rows = self.slot.numpy(), self.image.numpy(), self.sample.numpy()
        return target, kind[out.dtype], out.shape[1] if channels_last else 1, images, *rows

    def addresses(self) -> tuple[int, int, int, int, int]:
        """Of the tensors, in order."""
        out, x, slot, image, sample = self
        return (
            out.data_ptr(),
            x.data_ptr(),
            slot.data_ptr(),
            image.data_ptr(),
            sample.data_ptr(),
        )

    def on_device(self) -> Launch:
        """How a kernel is launched."""
        aligned = not (self.out.data_ptr() | self.x.data_ptr()) & 15
        out = self.out
        return _launch(out.shape, self.x.shape[0], out.dtype, out.is_contiguous(), aligned)


class Launch(NamedTuple):
    """What is the same for all batches of one shape, dtype and layout."""

    name: str  # layout and dtype, as they stand in the name of a kernel
    grid: tuple[int, int]
    block: tuple[int, int]
    sizes: tuple[np.uint32, ...]  # elements of a row, rows, images, channels


@lru_cache(maxsize=256)
def _launch(
    shape: tuple[int, ...], slots: int, dtype: torch.dtype, contiguous: bool, aligned: bool
) -> Launch:
    """Plan a launch once: a batch that waits for Python costs more than the kernel."""
    import numpy as np

    rows, channels, size = shape[0], shape[1], math.prod(shape[1:])
    group = 16 // dtype.itemsize  # elements of a 16-byte store
    if contiguous:
        layout, groups = "contiguous", -(-size // group)
    elif channels == 3 and size % (3 * group) == 0 and aligned:
        layout, groups = "colour", size // (3 * group)
    else:
        layout, groups = "channels_last", -(-size // 4)
    name = f"{layout}_{str(dtype).removeprefix('torch.')}"
    sizes = tuple(map(np.uint32, (size, rows, slots, channels)))
    return Launch(name, *_launch_shape(rows, groups), sizes)


def check_bits(name: str, value: Any, bits: int) -> int:
    """Return a whole number of at most so many bits, or refuse it."""
    if isinstance(value, bool):
        raise TypeError(f"`{name}` must be a whole number, got {value}.")
    try:
        whole = operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be a whole number, got {value!r}.") from None
    if not 0 <= whole < 2**bits:
        raise ValueError(f"`{name}` must be in [0, 2**{bits}), got {whole}.")
    return whole


def check_number(name: str, value: Any) -> float:
    """Return a number as a float, or refuse what is none."""
    if isinstance(value, (bool, str, bytes)):
        raise TypeError(f"`{name}` must be a number, got {value!r}.")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` must be a number, got {value!r}.") from None


def _is_channels_last(out: torch.Tensor) -> bool:
    import torch

    return out.dim() == 4 and out.is_contiguous(memory_format=torch.channels_last)


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
