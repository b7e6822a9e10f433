"""Checks of tensors that both kernels share, cheap enough for a call per small batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def check_tensor(
    name: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """Refuse what is not a contiguous tensor of this shape and dtype on this device."""
    import torch

    if not isinstance(value, torch.Tensor):
        raise TypeError(f"`{name}` must be a torch tensor, got {type(value).__name__}.")
    if value.dtype != dtype:
        raise TypeError(f"`{name}` must be {dtype}, got {value.dtype}.")
    if value.device != device:
        raise ValueError(f"`{name}` must be on {device}, got {value.device}.")
    if value.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape}, got {tuple(value.shape)}.")
    if not value.is_contiguous():
        raise ValueError(f"`{name}` must be contiguous, got strides {value.stride()}.")


def check_floating(name: str, value: Any) -> None:
    """Refuse what is not a float32, float16 or bfloat16 tensor on the CPU or a CUDA device."""
    import torch

    if not isinstance(value, torch.Tensor):
        raise TypeError(f"`{name}` must be a torch tensor, got {type(value).__name__}.")
    if value.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise TypeError(
            f"`{name}` must be torch.float32, torch.float16 or torch.bfloat16, got {value.dtype}."
        )
    if not (value.is_cpu or value.is_cuda):
        raise ValueError(f"`{name}` must be on the CPU or a CUDA device, got {value.device}.")


def check_range(name: str, value: torch.Tensor, end: int) -> None:
    """Refuse whole numbers outside [0, end) in a CPU tensor."""
    if value.numel() == 0:
        return
    low, high = (int(extreme) for extreme in value.aminmax())
    if low < 0 or high >= end:
        raise ValueError(f"`{name}` must be in [0, {end}), got {low if low < 0 else high}.")


def check_real_range(name: str, value: torch.Tensor, low: float, high: float) -> None:
    """Refuse numbers outside [low, high], and NaN, in a CPU tensor."""
    bad = ~((value >= low) & (value <= high))
    if bool(bad.any()):
        raise ValueError(f"`{name}` must be in [{low:g}, {high:g}], got {value[bad][0].item():g}.")


def check_backend(backend: Any) -> None:
    """Refuse a backend other than None (the tensor decides) and "torch"."""
    if backend not in (None, "torch"):
        raise ValueError(f'`backend` must be None or "torch", got {backend!r}.')
