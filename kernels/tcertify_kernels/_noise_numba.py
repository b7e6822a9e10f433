"""The numba twins of noise.cu and integer_noise.cu: the same counters, operations and bits.

Numba widens 32-bit integer arithmetic to 64 bits, which would stop the loops from vectorising, so
the operations on one 32-bit lane are written as intrinsics, each beside a plain Python form that
takes its place under NUMBA_DISABLE_JIT. All of it is one file because numba's cache looks at the
file of the compiled function alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from tcertify_kernels.jit import njit

# --- one 32-bit lane ------------------------------------------------------------------------

U32, I32, F32 = types.uint32, types.int32, types.float32
_BITS = ir.IntType(32)
_WIDE = ir.IntType(64)
_FLOAT = ir.FloatType()


def _lane(result: Any, arguments: tuple[Any, ...], build: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate the plain Python form of an operation; `build` emits the same in LLVM."""

    def decorate(plain: Callable[..., Any]) -> Callable[..., Any]:
        if config.DISABLE_JIT:  # type: ignore[attr-defined]
            return plain

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return build(builder, *values)

        def unary(typing_context: Any, a: Any) -> Any:
            return result(*arguments), codegen

        def binary(typing_context: Any, a: Any, b: Any) -> Any:
            return result(*arguments), codegen

        def ternary(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
            return result(*arguments), codegen

        operation: Callable[..., Any] = intrinsic((unary, binary, ternary)[len(arguments) - 1])
        return operation

    return decorate


def _product(builder: Any, a: Any, b: Any) -> Any:
    return builder.mul(builder.zext(a, _WIDE), builder.zext(b, _WIDE))


@_lane(
    U32,
    (U32, U32),
    lambda to, a, b: to.trunc(to.lshr(_product(to, a, b), ir.Constant(_WIDE, 32)), _BITS),
)
def mul_high(a: Any, b: Any) -> Any:
    return int(a) * int(b) >> 32


@_lane(U32, (U32, U32), lambda to, a, b: to.mul(a, b))
def mul_low(a: Any, b: Any) -> Any:
    return int(a) * int(b) & 0xFFFFFFFF


@_lane(U32, (U32, U32), lambda to, a, b: to.add(a, b))
def add(a: Any, b: Any) -> Any:
    return int(a) + int(b) & 0xFFFFFFFF


@_lane(U32, (U32, U32), lambda to, a, b: to.sub(a, b))
def sub(a: Any, b: Any) -> Any:
    return int(a) - int(b) & 0xFFFFFFFF


@_lane(U32, (U32, U32), lambda to, a, b: to.xor(a, b))
def xor(a: Any, b: Any) -> Any:
    return int(a) ^ int(b)


@_lane(U32, (U32, U32), lambda to, a, b: to.and_(a, b))
def both(a: Any, b: Any) -> Any:
    return int(a) & int(b)


@_lane(U32, (U32, U32), lambda to, a, b: to.or_(a, b))
def either(a: Any, b: Any) -> Any:
    return int(a) | int(b)


@_lane(U32, (U32, U32), lambda to, a, b: to.shl(a, b))
def shift_left(a: Any, b: Any) -> Any:
    return int(a) << int(b) & 0xFFFFFFFF


@_lane(U32, (U32, U32), lambda to, a, b: to.lshr(a, b))
def shift_right(a: Any, b: Any) -> Any:
    return int(a) >> int(b)


@_lane(U32, (U32,), lambda to, a: to.ashr(a, ir.Constant(_BITS, 31)))
def shift_sign(a: Any) -> Any:
    """All bits set if the highest is, else none."""
    return 0xFFFFFFFF if int(a) >> 31 else 0


@_lane(F32, (U32,), lambda to, a: to.uitofp(a, _FLOAT))
def float_of_unsigned(a: Any) -> Any:
    return np.float32(int(a))


@_lane(F32, (U32,), lambda to, a: to.sitofp(a, _FLOAT))
def float_of_signed(a: Any) -> Any:
    return np.float32((int(a) ^ 0x80000000) - 0x80000000)


@_lane(F32, (U32,), lambda to, a: to.bitcast(a, _FLOAT))
def float_of_bits(a: Any) -> Any:
    return np.uint32(a).view(np.float32)


@_lane(U32, (F32,), lambda to, a: to.bitcast(a, _BITS))
def bits_of_float(a: Any) -> Any:
    return int(np.float32(a).view(np.uint32))


@_lane(F32, (F32, F32, F32), lambda to, a, b, c: to.fma(a, b, c))
def fma(a: Any, b: Any, c: Any) -> Any:
    """Round a * b + c once: the float64 sum is rounded to odd, so that the rounding to float32
    sees on which side of a tie the exact value lies.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        product = np.float64(a) * np.float64(b)
        wide = product + np.float64(c)
        part = wide - product
        error = (product - (wide - part)) + (np.float64(c) - part)
        if error != 0 and np.isfinite(wide) and not wide.view(np.int64) & 1:
            wide = np.nextafter(wide, np.copysign(np.inf, error))
        return np.float32(wide)


@_lane(F32, (F32,), lambda to, a: to.call(to.module.declare_intrinsic("llvm.sqrt", [_FLOAT]), [a]))
def square_root(a: Any) -> Any:
    return np.sqrt(a)


# --- Philox4x32-10 --------------------------------------------------------------------------

_MULTIPLY_0, _MULTIPLY_1 = np.uint32(0xD2511F53), np.uint32(0xCD9E8D57)
_WEYL_0, _WEYL_1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)


@njit(nogil=True, forceinline=True)
def _round(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any, index: Any) -> Any:
    high_0, low_0 = mul_high(_MULTIPLY_0, c0), mul_low(_MULTIPLY_0, c0)
    high_1, low_1 = mul_high(_MULTIPLY_1, c2), mul_low(_MULTIPLY_1, c2)
    k0, k1 = add(k0, mul_low(index, _WEYL_0)), add(k1, mul_low(index, _WEYL_1))
    return xor(xor(high_1, c1), k0), low_1, xor(xor(high_0, c3), k1), low_0


@njit(nogil=True, forceinline=True)
def philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Four random words from a counter of four words and a key of two (Salmon et al. 2011)."""
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1, 0)  # a loop would not be vectorised
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1, 1)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1, 2)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1, 3)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1, 4)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1, 5)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1, 6)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1, 7)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1, 8)
    return _round(c0, c1, c2, c3, k0, k1, 9)


# --- Box-Muller, the polynomials as kernels/fit_normal.py finds them --------------------------

_LOG_0 = np.float32(1.0)
_LOG_1 = np.float32(-0.6666643023490906)
_LOG_2 = np.float32(0.4999960958957672)
_LOG_3 = np.float32(-0.40020859241485596)
_LOG_4 = np.float32(0.33360496163368225)
_LOG_5 = np.float32(-0.2801133692264557)
_LOG_6 = np.float32(0.24373771250247955)
_LOG_7 = np.float32(-0.27969890832901)
_LOG_8 = np.float32(0.25764498114585876)
_SIN_0 = np.float32(-0.16666655242443085)
_SIN_1 = np.float32(0.008332189172506332)
_SIN_2 = np.float32(-0.00019518291810527444)
_COS_0 = np.float32(-0.5)
_COS_1 = np.float32(0.04166664555668831)
_COS_2 = np.float32(-0.0013887309469282627)
_COS_3 = np.float32(2.4432327336398885e-05)

_TWO_THIRDS, _EXPONENT = np.uint32(0x3F2AAAAB), np.uint32(0xFF800000)
_HALF, _ONE, _MINUS_TWO = np.float32(0.5), np.float32(1), np.float32(-2)
_EXPONENT_SCALE = np.float32(-2 * np.log(2) * 2.0**-23)
_EXPONENT_SHIFT = np.float32(-(2.0**28)) * _EXPONENT_SCALE
_ANGLE_SCALE = np.float32(np.pi / 4 * 2.0**-31)
_CELL = np.float32(2.0**-32)
LAST_CELLS = 256  # of the radius word: the far tail, where 32 more bits count
_SIGN, _SWAP, _TWO = np.uint32(0x80000000), np.uint32(0x40000000), np.uint32(2)


@njit(nogil=True, forceinline=True)
def middle(word: Any) -> Any:
    """The middle of the word's cell, in (0, 2^32]: 2^32 times a uniform."""
    return float_of_unsigned(word) + _HALF


@njit(nogil=True, forceinline=True)
def finer_middle(word: Any, further: Any) -> Any:
    """The same for a word of the last cells, which 32 more bits divide."""
    return fma(middle(further), _CELL, float_of_unsigned(word))


@njit(nogil=True, forceinline=True)
def radicand(uniform: Any) -> Any:
    """-2 log(u) for u = uniform / 2^32 = 2^e (1 + t), t in [-1/3, 1/3)."""
    exponent = both(sub(bits_of_float(uniform), _TWO_THIRDS), _EXPONENT)
    t = float_of_bits(sub(bits_of_float(uniform), exponent)) - _ONE
    tail = fma(float_of_signed(exponent), _EXPONENT_SCALE, _EXPONENT_SHIFT)
    q = fma(t, _LOG_8, _LOG_7)
    q = fma(t, q, _LOG_6)
    q = fma(t, q, _LOG_5)
    q = fma(t, q, _LOG_4)
    q = fma(t, q, _LOG_3)
    q = fma(t, q, _LOG_2)
    q = fma(t, q, _LOG_1)
    q = fma(t, q, _LOG_0)
    return fma(t, fma(t, q, _MINUS_TWO), tail)


@njit(nogil=True, forceinline=True)
def normal_pair(uniform: Any, angle: Any) -> Any:
    """Two standard normals from a uniform in (0, 2^32] and a random word, by fma, mul, add and sqrt
    alone.
    """
    length = square_root(radicand(uniform))
    # the low 30 bits of the angle span [-pi/4, pi/4), the top two choose the quarter
    x = float_of_signed(shift_left(angle, _TWO)) * _ANGLE_SCALE
    y = x * x
    sine = fma(x * y, fma(y, fma(y, _SIN_2, _SIN_1), _SIN_0), x)
    cosine = fma(y, fma(y, fma(y, fma(y, _COS_3, _COS_2), _COS_1), _COS_0), _ONE)
    cosine = float_of_bits(xor(bits_of_float(cosine), both(angle, _SIGN)))
    swap = both(angle, _SWAP) != 0
    return length * (sine if swap else cosine), length * (cosine if swap else sine)


# --- rounding to 16 bits, to nearest even ---------------------------------------------------

_MAGNITUDE, _INFINITY, _NAN_16 = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000), np.uint32(0x7FFF)
_SIXTEEN, _THIRTEEN, _BIT = np.uint32(16), np.uint32(13), np.uint32(1)
_BFLOAT_BIAS = np.uint32(0x7FFF)
_HALF_BIAS = np.uint32(
    0xC8000FFF
)  # moves the exponent from bias 127 to 15, adds half a step less one
_HALF_OVERFLOW, _HALF_INFINITY = np.uint32(0x477FF000), np.uint32(0x7C00)
_HALF_NORMAL, _HALF_MAGIC = np.uint32(0x38800000), np.uint32(0x3F000000)


@njit(nogil=True, forceinline=True)
def bfloat_bits(value: Any) -> Any:
    bits = bits_of_float(value)
    odd = both(shift_right(bits, _SIXTEEN), _BIT)
    rounded = shift_right(add(bits, add(_BFLOAT_BIAS, odd)), _SIXTEEN)
    return _NAN_16 if both(bits, _MAGNITUDE) > _INFINITY else rounded


@njit(nogil=True, forceinline=True)
def half_bits(value: Any) -> Any:
    bits = bits_of_float(value)
    size = both(bits, _MAGNITUDE)
    sign = shift_right(xor(bits, size), _SIXTEEN)
    odd = both(shift_right(size, _THIRTEEN), _BIT)
    rounded = shift_right(add(size, add(_HALF_BIAS, odd)), _THIRTEEN)
    # below the smallest normal half, adding 1/2 lines the last bit up with the half's
    small = sub(bits_of_float(float_of_bits(size) + _HALF), _HALF_MAGIC)
    rounded = small if size < _HALF_NORMAL else rounded
    rounded = _HALF_INFINITY if size >= _HALF_OVERFLOW else rounded
    return _NAN_16 if size > _INFINITY else either(rounded, sign)


# --- the loops ------------------------------------------------------------------------------

FLOAT, HALF, BFLOAT = 0, 1, 2
#: Added to a stream: 32 more bits of each of its words, and the words of integer noise.
_FURTHER, _INTEGER = 64, 128
CHUNK = 320  # blocks of four normals: the buffers stay in the first-level cache, and off
#             powers of two, whose addresses collide there
_32 = np.uint64(32)


def _use_full_width() -> None:
    """Let the loops of the calling function use the widest vectors that the processor has: LLVM
    keeps to half of AVX-512's by itself.
    """


def _use_full_width_in_llvm(typing_context: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        # An attribute with a value, which llvmlite writes as it stands but would not let in.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), codegen


use_full_width: Any = (
    _use_full_width if config.DISABLE_JIT else intrinsic(_use_full_width_in_llvm)  # type: ignore[attr-defined]
)


@njit(nogil=True)
def _set_counters(
    words: Any,
    count: int,
    row: int,
    block: int,
    blocks: int,
    image: Any,
    sample: Any,
    stream: int,
) -> None:
    """Set the counters of `count` blocks from (row, block) on, through as many rows as it takes."""
    lane = 0
    while lane < count:
        length = min(blocks - block, count - lane)
        which = np.uint32(image[row])
        low = np.uint32(sample[row] & 0xFFFFFFFF)
        high = np.uint32(sample[row] >> 32 | stream << 24)
        part = words[lane:]
        for i in range(length):
            part[i] = block + i
            part[i + CHUNK] = which
            part[i + 2 * CHUNK] = low
            part[i + 3 * CHUNK] = high
        lane += length
        row, block = row + 1, 0


@njit(nogil=True)
def _scramble(words: Any, k0: Any, k1: Any, count: int) -> None:
    """Turn `count` counters, in place, into random words.

    The four words of a counter lie CHUNK apart in one array: the compiler then sees that no lane
    reads what another one writes.
    """
    use_full_width()
    for i in range(count):
        words[i], words[i + CHUNK], words[i + 2 * CHUNK], words[i + 3 * CHUNK] = philox(
            words[i], words[i + CHUNK], words[i + 2 * CHUNK], words[i + 3 * CHUNK], k0, k1
        )


@njit(nogil=True)
def _transform(words: Any, count: int, z: Any) -> Any:
    """Turn `count` blocks of words into 4 * count normals, and return the smallest radius word."""
    use_full_width()
    smallest = np.uint32(0xFFFFFFFF)
    for i in range(count):
        z_0, z_1 = normal_pair(middle(words[i]), words[i + CHUNK])
        z_2, z_3 = normal_pair(middle(words[i + 2 * CHUNK]), words[i + 3 * CHUNK])
        z[4 * i], z[4 * i + 1], z[4 * i + 2], z[4 * i + 3] = z_0, z_1, z_2, z_3
        smallest = min(smallest, min(words[i], words[i + 2 * CHUNK]))
    return smallest


@njit(nogil=True)
def _lengthen_tail(words: Any, further: Any, count: int, z: Any) -> None:
    """Replace the normals whose radius lies in the last cells; `further` holds 32 more bits."""
    for i in range(count):
        for pair in range(2):
            radius, angle = i + 2 * pair * CHUNK, i + (2 * pair + 1) * CHUNK
            if words[radius] < LAST_CELLS:
                uniform = finer_middle(words[radius], further[radius])
                place = 4 * i + 2 * pair
                z[place], z[place + 1] = normal_pair(uniform, words[angle])


@njit(nogil=True, forceinline=True)
def _put(out: Any, i: int, kind: int, value: Any) -> None:
    """Write `value`, rounded to the dtype that `kind` names."""
    if kind == FLOAT:
        out[i] = value
    elif kind == HALF:
        out[i] = half_bits(value)
    else:
        out[i] = bfloat_bits(value)


@njit(nogil=True)
def _store(out: Any, kind: int, z: Any, x: Any, sigma: Any) -> None:
    """Write x + sigma z."""
    use_full_width()
    for i in range(len(z)):
        _put(out, i, kind, fma(sigma, z[i], x[i]))


@njit(nogil=True)
def _store_levels(out: Any, kind: int, z: Any, x: Any, grid: Any) -> None:
    """Write (levels x + z), clamped, as a fraction of `levels`: fma(y, inverse, y * rest) is the
    correctly rounded quotient.
    """
    use_full_width()
    levels, lowest, highest, inverse, rest = grid
    for i in range(len(z)):
        y = ((fma(x[i], levels, _WHOLE)) - _WHOLE) + z[i]
        y = lowest if y < lowest else y
        y = highest if y > highest else y
        _put(out, i, kind, fma(y, inverse, y * rest))


@njit(nogil=True)
def _place(
    out: Any,
    kind: int,
    channels: int,
    x: Any,
    slot: Any,
    sigma: Any,
    grid: Any,
    z: Any,
    count: int,
    row: int,
    block: int,
) -> None:
    """Add the noise of `count` blocks from (row, block) on to their pixels: Gaussian noise if
    `sigma` has a value, or one a row, integer noise if it has none.
    """
    size, lane = out.shape[1], 0
    pixels, blocks = size // channels, (size + 3) // 4
    while lane < count:
        length = min(blocks - block, count - lane)
        start, stop = 4 * block, min(4 * (block + length), size)
        offset = 4 * lane - start
        while start < stop:
            channel = start // pixels
            end = min(stop, (channel + 1) * pixels)
            noise, pixel = z[start + offset : end + offset], x[slot[row], start:end]
            begin = channel + (start - channel * pixels) * channels
            if len(sigma) == 0 and channels > 1:
                _store_levels(out[row, begin::channels], kind, noise, pixel, grid)
            elif len(sigma) == 0:
                _store_levels(out[row, start:end], kind, noise, pixel, grid)
            elif channels > 1:
                _store(out[row, begin::channels], kind, noise, pixel, sigma[row % len(sigma)])
            else:
                _store(out[row, start:end], kind, noise, pixel, sigma[row % len(sigma)])
            start = end
        lane += length
        row, block = row + 1, 0


@njit(nogil=True, cache=True)
def fill(
    out: Any,
    kind: int,
    channels: int,
    x: Any,
    slot: Any,
    image: Any,
    sample: Any,
    sigma: Any,
    seed: Any,
    stream: int,
    first: int,
    last: int,
) -> None:
    """Write the blocks first..last-1, counted through the rows of `out` (B, size) one by one.

    `channels` is 1 where rows are contiguous. `sigma` has one value, or one a row.
    """
    blocks = (out.shape[1] + 3) // 4
    k0, k1 = np.uint32(seed), np.uint32(seed >> _32)
    words, further = np.empty(4 * CHUNK, np.uint32), np.empty(4 * CHUNK, np.uint32)
    z, zero = np.empty(4 * CHUNK, np.float32), np.float32(0)
    while first < last:
        count = min(CHUNK, last - first)
        row, block = divmod(first, blocks)
        _set_counters(words, count, row, block, blocks, image, sample, stream)
        _scramble(words, k0, k1, count)
        if _transform(words, count, z) < LAST_CELLS:
            _set_counters(further, count, row, block, blocks, image, sample, stream | _FURTHER)
            _scramble(further, k0, k1, count)
            _lengthen_tail(words, further, count, z)
        grid = zero, zero, zero, zero, zero
        _place(out, kind, channels, x, slot, sigma, grid, z, count, row, block)
        first += count


# --- integer noise --------------------------------------------------------------------------

_WHOLE = np.float32(1.5 * 2**23)  # added to a number below 2^22, rounds it to a whole one
GUIDE_OFFSET = np.float32(2**14)
GUIDE_FIRST, GUIDE_SHIFT = np.uint32(36096), np.uint32(15)  # float32 bits of the offset, shifted
GUIDE_SIZE = 4356  # for words from 0 to 2^31, and a multiple of 4
_LOW_HALF = np.uint32(0xFFFF)
_63 = np.uint64(63)


@njit(nogil=True, forceinline=True)
def _place_of(word: Any) -> Any:
    """Where a word stands in the guide: the bits of a float32 that grows with it below 2^31, and
    with its mirror image above.
    """
    folded = float_of_signed(xor(word, shift_sign(word)))
    return bits_of_float(folded + GUIDE_OFFSET)


@njit(nogil=True)
def _find_cells(words: Any, found: Any) -> None:
    """The cell of the guide that each word falls in."""
    use_full_width()
    for i in range(len(found)):
        found[i] = sub(shift_right(_place_of(words[i]), GUIDE_SHIFT), GUIDE_FIRST)


@njit(nogil=True)
def _look_up(guide: Any, found: Any) -> None:
    """Replace cells by their entries. A loop of its own: it is not vectorised, the others are."""
    for i in range(len(found)):
        found[i] = guide[np.uint64(found[i])]


@njit(nogil=True, forceinline=True)
def _guided(word: Any, entry: Any) -> Any:
    """The noise that a word stands for, and a number with a low half of zero or a sign if the guide
    does not decide.
    """
    sign = shift_sign(word)
    rest = sub(entry, _place_of(word))
    size = shift_right(rest, _SIXTEEN)
    return float_of_signed(sub(sign, xor(size, sign))), rest


@njit(nogil=True)
def _round_normals(words: Any, found: Any, count: int, z: Any) -> Any:
    """Turn `count` blocks of words into 4 * count whole numbers; whether all are decided."""
    use_full_width()
    signs, least = np.uint32(0), _LOW_HALF
    for i in range(count):
        z_0, r_0 = _guided(words[i], found[i])
        z_1, r_1 = _guided(words[i + CHUNK], found[i + CHUNK])
        z_2, r_2 = _guided(words[i + 2 * CHUNK], found[i + 2 * CHUNK])
        z_3, r_3 = _guided(words[i + 3 * CHUNK], found[i + 3 * CHUNK])
        z[4 * i], z[4 * i + 1], z[4 * i + 2], z[4 * i + 3] = z_0, z_1, z_2, z_3
        signs = either(signs, either(either(r_0, r_1), either(r_2, r_3)))
        least = min(least, min(both(r_0, _LOW_HALF), both(r_1, _LOW_HALF)))
        least = min(least, min(both(r_2, _LOW_HALF), both(r_3, _LOW_HALF)))
    return signs < _SIGN and least > 0


@njit(nogil=True)
def _decide(
    words: Any,
    further: Any,
    count: int,
    thresholds: Any,
    z: Any,
    invalid: Any,
    size: int,
    row: int,
    block: int,
) -> None:
    """Draw again from 64 bits; a row where they tie with a threshold is invalid."""
    for i in range(count):
        for part in range(min(4, size - 4 * block)):
            word = np.uint64(words[i + part * CHUNK]) << _32 | np.uint64(further[i + part * CHUNK])
            upper = word >> _63 != 0
            word = ~word if upper else word
            passed = np.searchsorted(thresholds, word, side="right")
            if passed > 0 and thresholds[passed - 1] == word:
                invalid[row] = True
            size_of = len(thresholds) - passed
            z[4 * i + part] = size_of if upper else -size_of
        block += 1
        if 4 * block >= size:
            row, block = row + 1, 0


@njit(nogil=True, cache=True)
def fill_integer(
    out: Any,
    kind: int,
    channels: int,
    x: Any,
    slot: Any,
    image: Any,
    sample: Any,
    invalid: Any,
    guide: Any,
    thresholds: Any,
    grid: Any,
    seed: Any,
    stream: int,
    first: int,
    last: int,
) -> None:
    """Write the blocks first..last-1, counted through the rows of `out` (B, size) one by one, and
    mark the rows that hold an undecided draw.
    """
    size, blocks = out.shape[1], (out.shape[1] + 3) // 4
    k0, k1 = np.uint32(seed), np.uint32(seed >> _32)
    words, further = np.empty(4 * CHUNK, np.uint32), np.empty(4 * CHUNK, np.uint32)
    found = np.empty(4 * CHUNK, np.uint32)
    z, no_sigma = np.empty(4 * CHUNK, np.float32), np.empty(0, np.float32)
    stream |= _INTEGER
    while first < last:
        count = min(CHUNK, last - first)
        row, block = divmod(first, blocks)
        _set_counters(words, count, row, block, blocks, image, sample, stream)
        _scramble(words, k0, k1, count)
        _find_cells(words, found)
        _look_up(guide, found)
        if not _round_normals(words, found, count, z):
            _set_counters(further, count, row, block, blocks, image, sample, stream | _FURTHER)
            _scramble(further, k0, k1, count)
            _decide(words, further, count, thresholds, z, invalid, size, row, block)
        _place(out, kind, channels, x, slot, no_sigma, grid, z, count, row, block)
        first += count
