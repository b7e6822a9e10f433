"""The noise of noise.cu and integer_noise.cu by plain torch operations: the same bits, many times
slower.

Words of 32 bits live in int64 tensors, whose products wrap as the unsigned ones do. torch has no
fused multiply-add that keeps its promise on every device: it is taken in float64, rounded to odd.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Added to a stream: 32 more bits of each of its words, and the words of integer noise.
FURTHER, INTEGER = 64, 128
LAST_CELLS = 256

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
) -> None:
    """Write the batch; rows whose slot, image, sample or sigma is out of range become NaN."""
    level = torch.as_tensor(sigma, dtype=torch.float32, device=out.device).expand(len(out))
    good = good_rows(x, slot, image, sample) & (level >= 2.0**-126) & (level < math.inf)
    level = torch.where(good, level, math.nan)
    size = x[0].numel()
    words = words_of(image, sample, stream, seed, size)
    further = words_of(image, sample, stream | FURTHER, seed, size)
    pairs = [
        normal
        for pair in (0, 2)
        for normal in normal_pair(middle(words[pair], further[pair]), words[pair + 1])
    ]
    z = torch.stack(pairs, dim=-1).reshape(len(out), -1)[:, :size]
    pixels = x.reshape(len(x), -1)[torch.where(good, slot, 0).long()]
    out.copy_(fma(level[:, None], z, pixels).reshape(out.shape))


def fill_integer(
    out: Tensor,
    x: Tensor,
    slot: Tensor,
    image: Tensor,
    sample: Tensor,
    invalid: Tensor,
    thresholds: Tensor,
    levels: int,
    seed: int,
    stream: int,
) -> None:
    """Write the batch, every draw from all of its 64 bits; rows whose slot, image or sample is out
    of range become NaN, and are marked as those are in which a draw ties with a threshold.
    """
    good, size, reach = good_rows(x, slot, image, sample), x[0].numel(), len(thresholds)
    words = words_of(image, sample, stream | INTEGER, seed, size)
    further = words_of(image, sample, stream | INTEGER | FURTHER, seed, size)
    word, low = (
        torch.stack(four, dim=-1).reshape(len(out), -1)[:, :size] for four in (words, further)
    )
    upper = word >> 31 != 0
    uniform = torch.where(upper, word ^ _WORD, word) << 32 | torch.where(upper, low ^ _WORD, low)
    passed = torch.searchsorted(thresholds, uniform, right=True)
    tied = passed != torch.searchsorted(thresholds, uniform)
    invalid.copy_(tied.any(dim=1) | ~good)
    z = torch.where(upper, reach - passed, passed - reach)
    pixels = x.reshape(len(x), -1)[torch.where(good, slot, 0).long()]
    y = ((pixels.double() * levels).round() + z).clamp(levels - reach, reach)
    value = torch.where(good[:, None], y / levels, math.nan).float()
    out.copy_(value.reshape(out.shape))


def good_rows(x: Tensor, slot: Tensor, image: Tensor, sample: Tensor) -> Tensor:
    """Which rows have a slot, image and sample in range."""
    good = (slot >= 0) & (slot < len(x)) & (image >= 0) & (image <= _WORD)
    return good & (sample >= 0) & (sample >> 56 == 0)


def words_of(image: Tensor, sample: Tensor, stream: int, seed: int, size: int) -> list[Tensor]:
    """The random words of each row, (B, blocks), for the four places in a block."""
    block = torch.arange(-(-size // 4), device=image.device)
    counter = [
        block.expand(len(image), -1),
        image[:, None].expand(-1, len(block)),
        (sample & _WORD)[:, None].expand(-1, len(block)),
        (sample >> 32 | stream << 24)[:, None].expand(-1, len(block)),
    ]
    return philox(counter, seed & _WORD, seed >> 32)


def philox(counter: list[Tensor], k0: int, k1: int) -> list[Tensor]:
    """Four random words from counters of four words and a key of two, all in int64."""
    c0, c1, c2, c3 = counter
    for index in range(10):
        product_0, product_1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        key_0, key_1 = k0 + index * 0x9E3779B9 & _WORD, k1 + index * 0xBB67AE85 & _WORD
        c0, c1 = (product_1 >> 32 & _WORD) ^ c1 ^ key_0, product_1 & _WORD
        c2, c3 = (product_0 >> 32 & _WORD) ^ c3 ^ key_1, product_0 & _WORD
    return [c0, c1, c2, c3]


def middle(radius: Tensor, further: Tensor) -> Tensor:
    """The middle of the cell of each radius word, the last cells divided by 32 more bits."""
    finer = fma(further.float() + 0.5, 2.0**-32, radius.float())
    return torch.where(radius < LAST_CELLS, finer, radius.float() + 0.5)


def normal_pair(uniform: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Two standard normals from a uniform in (0, 2^32] and a random word; operation by operation
    what noise.cu does.
    """
    u = uniform.view(torch.int32)
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
