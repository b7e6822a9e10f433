"""The noise of noise.cu by plain torch operations: the same bits, many times slower.

Words of 32 bits live in int64 tensors, whose products wrap as the unsigned ones do. torch has no
fused multiply-add that keeps its promise on every device: it is taken in float64, rounded to odd.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_LOG = (
    1.0,
    -0.6666643023490906,
    0.4999960958957672,
    -0.40020859241485596,
    0.33360496163368225,
    -0.2801133692264557,
    0.24373771250247955,
    -0.27969890832901,
    0.25764498114585876,
)
_SIN = (-0.16666655242443085, 0.008332189172506332, -0.00019518291810527444)
_COS = (-0.5, 0.04166664555668831, -0.0013887309469282627, 2.4432327336398885e-05)
_EXPONENT_SCALE = torch.tensor(-2 * math.log(2) * 2.0**-23, dtype=torch.float32).item()
_ANGLE_SCALE = torch.tensor(math.pi / 4 * 2.0**-31, dtype=torch.float32).item()


def fill(
    out: Tensor,
    x: Tensor,
    slot: Tensor,
    image: Tensor,
    sample: Tensor,
    sigma: float | Tensor,
    seed: int,
    stream: int,
    mean: Tensor | None,
    std: Tensor | None,
) -> None:
    """Write the batch; rows whose slot, image, sample or sigma is out of range become NaN."""
    rows, size = len(out), x[0].numel()
    level = torch.as_tensor(sigma, dtype=torch.float32, device=out.device).expand(rows)
    good = (slot >= 0) & (slot < len(x)) & (image >= 0) & (image <= _WORD)
    good &= (sample >= 0) & (sample >> 56 == 0) & (level >= 2.0**-126) & (level < math.inf)
    level = torch.where(good, level, math.nan)
    block = torch.arange(-(-size // 4), device=out.device)
    counter = [
        block.expand(rows, -1),
        image[:, None].expand(-1, len(block)),
        (sample & _WORD)[:, None].expand(-1, len(block)),
        (sample >> 32 | stream << 24)[:, None].expand(-1, len(block)),
    ]
    words = philox(counter, seed & _WORD, seed >> 32)
    pairs = [*normal_pair(words[0], words[1]), *normal_pair(words[2], words[3])]
    z = torch.stack(pairs, dim=-1).reshape(rows, -1)[:, :size]
    pixels = x.reshape(len(x), -1)[torch.where(good, slot, 0).long()]
    value = fma(level[:, None], z, pixels).reshape(out.shape)
    if mean is not None and std is not None:
        channel = (-1,) + (1,) * (out.dim() - 2)
        value = (value - mean.reshape(channel)) * (1 / std).reshape(channel)
    out.copy_(value)


def philox(counter: list[Tensor], k0: int, k1: int) -> list[Tensor]:
    """Four random words from counters of four words and a key of two, all in int64."""
    c0, c1, c2, c3 = counter
    for index in range(10):
        product_0, product_1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        key_0, key_1 = k0 + index * 0x9E3779B9 & _WORD, k1 + index * 0xBB67AE85 & _WORD
        c0, c1 = (product_1 >> 32 & _WORD) ^ c1 ^ key_0, product_1 & _WORD
        c2, c3 = (product_0 >> 32 & _WORD) ^ c3 ^ key_1, product_0 & _WORD
    return [c0, c1, c2, c3]


def normal_pair(radius: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Two standard normals from two random words; operation by operation what philox.cuh does."""
    u = (radius.float() + 0.5).view(torch.int32)
    exponent = (u - 0x3F2AAAAB) & ~0x7FFFFF
    t = (u - exponent).view(torch.float32) - 1.0
    tail = fma(exponent.float(), _EXPONENT_SCALE, -(2.0**28) * _EXPONENT_SCALE)
    square = fma(t, fma(t, _horner(t, _LOG), -2.0), tail)
    length = square.double().sqrt().float()  # torch's float32 root is an ulp off here and there
    x = ((angle << 2 & _WORD) ^ 0x80000000).sub(0x80000000).float() * _ANGLE_SCALE
    y = x * x
    sine = fma(x * y, _horner(y, _SIN), x)
    cosine = fma(y, _horner(y, _COS), 1.0)
    cosine = torch.where(angle & 0x80000000 != 0, -cosine, cosine)
    swap = angle & 0x40000000 != 0
    return length * torch.where(swap, sine, cosine), length * torch.where(swap, cosine, sine)


def _horner(t: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    value: float | Tensor = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        value = fma(t, value, coefficient)
    assert isinstance(value, Tensor)
    return value


def fma(a: Tensor, b: float | Tensor, c: float | Tensor) -> Tensor:
    """Return a * b + c rounded once, for float32 tensors: rounding the float64 sum to odd lets the
    rounding to float32 see on which side of a tie the exact value lies.
    """
    product = a.double() * (b.double() if isinstance(b, Tensor) else b)
    addend = c.double() if isinstance(c, Tensor) else c
    wide = product + addend
    part = wide - product
    error = (product - (wide - part)) + (addend - part)
    bits = wide.view(torch.int64)
    inexact = (error != 0) & wide.isfinite() & (bits & 1 == 0)
    toward = torch.where((error > 0) == (wide > 0), 1, -1)
    return torch.where(inexact, bits + toward, bits).view(torch.float64).float()
