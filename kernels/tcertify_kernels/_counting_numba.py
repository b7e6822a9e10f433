"""The numba twin of counting.cu: each row's vote, by whole-number comparisons alone.

The order of a logit is its sign and size turned into a signed number, in which both zeros are equal
and NaN stands above all. Sixteen columns at a time go through vector instructions that numba has
no words for, so they are an intrinsic; beside it stands the plain NumPy form that takes its place
under NUMBA_DISABLE_JIT.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.extending import intrinsic

_LANES = 16
_ROWS = 512  # voted on before they are counted, so that neither waits for the other
_NAN = 0x7FFFFFFF  # the order of NaN
_SHIFT = np.int64(32)


def _lead(logits: Any, start: Any, count: Any, infinity: Any) -> Any:
    """The order of the largest of logits[start:start + count], 16 at most, and its place: the order
    in the high word, and in the low one 15 less the first place that has it.
    """
    bits = logits[start : start + count].astype(np.int64)
    sign = 1 << 8 * logits.itemsize - 1
    size = bits & sign - 1
    order = np.where(bits & sign, -size, size)
    order[size > infinity] = _NAN
    first = int(order.argmax())
    return int(order[first]) << 32 | _LANES - 1 - first


def _lead_in_llvm(typing_context: Any, logits: Any, start: Any, count: Any, infinity: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, start, count, infinity = arguments
        width = logits.dtype.bitwidth
        narrow, word, wide = ir.IntType(width), ir.IntType(32), ir.IntType(64)
        vector, loaded = ir.VectorType(word, _LANES), ir.VectorType(narrow, _LANES)

        def splat(value: Any) -> Any:
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, word(0))
            return builder.shuffle_vector(
                one, ir.Constant(vector, ir.Undefined), ir.Constant(vector, [0] * _LANES)
            )

        def constant(value: int) -> Any:
            return ir.Constant(vector, [value] * _LANES)

        def call(name: str, result: Any, *values: Any) -> Any:
            kind = ir.FunctionType(result, [value.type for value in values])
            function = builder.module.declare_intrinsic(name, fnty=kind)
            return builder.call(function, values)

        lane = ir.Constant(vector, list(range(_LANES)))
        there = builder.icmp_signed("<", lane, splat(builder.trunc(count, word)))
        data = context.make_array(logits)(context, builder, array).data
        place = builder.bitcast(builder.gep(data, [start]), loaded.as_pointer())
        bits = call(
            f"llvm.masked.load.v{_LANES}i{width}.p0",
            loaded,
            place,
            ir.IntType(32)(width // 8),
            there,
            ir.Constant(loaded, [0] * _LANES),
        )
        if width < 32:
            bits = builder.shl(builder.zext(bits, vector), constant(32 - width))
        negative = builder.ashr(bits, constant(31))
        size = builder.lshr(builder.and_(bits, constant(0x7FFFFFFF)), constant(32 - width))
        order = builder.sub(builder.xor(size, negative), negative)
        invalid = builder.icmp_signed(">", size, splat(builder.trunc(infinity, word)))
        order = builder.select(invalid, constant(_NAN), order)
        order = builder.select(there, order, constant(-(2**31)))
        most = call(f"llvm.vector.reduce.smax.v{_LANES}i32", word, order)
        hits = builder.icmp_signed("==", order, splat(most))
        mask = builder.zext(builder.bitcast(hits, ir.IntType(_LANES)), word)
        first = builder.cttz(mask, ir.IntType(1)(1))
        low = builder.zext(builder.sub(word(_LANES - 1), first), wide)
        return builder.or_(builder.shl(builder.sext(most, wide), wide(32)), low)

    return types.int64(logits, types.int64, types.int64, types.int64), codegen


lead: Any = _lead if config.DISABLE_JIT else intrinsic(_lead_in_llvm)  # type: ignore[attr-defined]


@njit(nogil=True)
def _vote(votes: Any, logits: Any, classes: int, infinity: int, first: int, last: int) -> None:
    """Set votes[b - first] to the lowest class with the largest logit, or to `classes` at a NaN."""
    for row in range(first, last):
        start = row * classes
        best = lead(logits, start, min(classes, _LANES), infinity)
        block = 0
        for column in range(_LANES, classes, _LANES):
            found = lead(logits, start + column, min(classes - column, _LANES), infinity)
            if found >> _SHIFT > best >> _SHIFT:
                best, block = found, column
        place = block + _LANES - 1 - (best & 0xF)
        votes[row - first] = classes if best >> _SHIFT == _NAN else place


@njit(nogil=True)
def _tally(counts: Any, votes: Any, slot: Any, first: int, last: int) -> None:
    for row in range(first, last):
        counts[slot[row], votes[row - first]] += 1


@njit(nogil=True, cache=True)
def count(
    counts: Any, logits: Any, slot: Any, classes: int, infinity: int, first: int, last: int
) -> None:
    """Add the votes of the rows first..last-1 to `counts`.

    `logits` are the bits of all rows in one dimension, and `infinity` those above which NaN begins.
    """
    votes = np.empty(_ROWS, np.int64)
    while first < last:
        end = min(first + _ROWS, last)
        _vote(votes, logits, classes, infinity, first, end)
        _tally(counts, votes, slot, first, end)
        first = end
