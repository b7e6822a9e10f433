"""The numba twin of counting.cu: each row's vote, by whole-number comparisons alone.

The order of a logit is its sign and size turned into a signed number, in which both zeros are equal
and NaN stands beyond the infinities. Sixteen columns at a time go through vector instructions that
numba has no words for, so a row's vote is an intrinsic; beside it stands the plain NumPy form that
takes its place under NUMBA_DISABLE_JIT.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from tcertify_kernels.jit import njit

_LANES = 16
_ROWS = 512  # voted on before they are counted, so that neither waits for the other
_LOWEST = -(2**31)


def _plain_vote(logits: Any, start: Any, classes: Any, infinity: Any) -> Any:
    """Return the first place of the largest of logits[start:start + classes], or `classes` if one
    of them is NaN.
    """
    bits = logits[start : start + classes].astype(np.int64)
    sign = 1 << 8 * logits.itemsize - 1
    size = bits & sign - 1
    order = np.where(bits & sign, -size, size)
    return classes if (size > infinity).any() else int(order.argmax())


def _vote_in_llvm(typing_context: Any, logits: Any, start: Any, classes: Any, infinity: Any) -> Any:
    width = logits.dtype.bitwidth
    narrow, word, wide = ir.IntType(width), ir.IntType(32), ir.IntType(64)
    vector, loaded = ir.VectorType(word, _LANES), ir.VectorType(narrow, _LANES)

    def constant(value: int) -> Any:
        return ir.Constant(vector, [value] * _LANES)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, start, classes, infinity = arguments
        row = builder.gep(context.make_array(logits)(context, builder, array).data, [start])

        def variable(value: Any) -> Any:
            allocate: Any = cgutils.alloca_once_value
            return allocate(builder, value)

        def splat(value: Any) -> Any:
            first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, word(0))
            return builder.shuffle_vector(first, first, constant(0))

        def call(name: str, result: Any, *values: Any) -> Any:
            kind = ir.FunctionType(result, [value.type for value in values])
            function = builder.module.declare_intrinsic(name, fnty=kind)
            return builder.call(function, values)

        def somewhere(lanes: Any) -> Any:
            """The lanes where it is true, one bit each."""
            return builder.zext(builder.bitcast(lanes, ir.IntType(_LANES)), word)

        def order_of(index: Any, there: Any) -> Any:
            """The order of a block of columns; zero in the lanes that are not there."""
            place = builder.gep(row, [builder.mul(index, wide(_LANES))])
            place = builder.bitcast(place, loaded.as_pointer())
            name = f"llvm.masked.load.v{_LANES}i{width}.p0"
            absent = ir.Constant(loaded, [0] * _LANES)
            bits = call(name, loaded, place, word(width // 8), there, absent)
            bits = bits if width == 32 else builder.sext(bits, vector)
            size = builder.and_(bits, constant(2 ** (width - 1) - 1))
            negative = builder.ashr(bits, constant(31))
            return builder.sub(builder.xor(size, negative), negative)

        # The last block first, as it may be the only one. The others in falling order: then a tie
        # goes to the block that comes later here, which is the lower one.
        blocks = builder.sdiv(classes, wide(_LANES))
        rest = builder.trunc(builder.srem(classes, wide(_LANES)), word)
        lane = ir.Constant(vector, list(range(_LANES)))
        there = builder.icmp_signed("<", lane, splat(rest))
        order = order_of(blocks, there)
        least = variable(order)
        best = variable(builder.select(there, order, constant(_LOWEST)))
        block = variable(splat(builder.trunc(blocks, word)))
        with cgutils.for_range(builder, blocks, intp=wide) as loop:
            index = builder.sub(builder.sub(blocks, wide(1)), loop.index)
            order = order_of(index, ir.Constant(ir.VectorType(ir.IntType(1), _LANES), [1] * _LANES))
            lower = builder.icmp_signed("<", order, builder.load(least))
            builder.store(builder.select(lower, order, builder.load(least)), least)
            beaten = builder.icmp_signed("<", order, builder.load(best))
            builder.store(builder.select(beaten, builder.load(best), order), best)
            here = splat(builder.trunc(index, word))
            builder.store(builder.select(beaten, builder.load(block), here), block)

        orders = builder.load(best)
        most = call(f"llvm.vector.reduce.smax.v{_LANES}i32", word, orders)
        first = builder.icmp_signed("==", orders, splat(most))
        column = variable(call("llvm.cttz.i32", word, somewhere(first), ir.IntType(1)(1)))
        with builder.if_then(builder.icmp_signed(">", classes, wide(_LANES))):
            columns = builder.add(builder.mul(builder.load(block), constant(_LANES)), lane)
            columns = builder.select(first, columns, constant(2**31 - 1))
            builder.store(call(f"llvm.vector.reduce.smin.v{_LANES}i32", word, columns), column)
        limit = builder.trunc(infinity, word)
        beyond = builder.icmp_signed("<", builder.load(least), splat(builder.neg(limit)))
        nan = builder.or_(
            builder.icmp_signed(">", most, limit),
            builder.icmp_signed("!=", somewhere(beyond), word(0)),
        )
        return builder.select(nan, classes, builder.zext(builder.load(column), wide))

    return types.int64(logits, types.int64, types.int64, types.int64), codegen


_vote: Any = _plain_vote if config.DISABLE_JIT else intrinsic(_vote_in_llvm)  # type: ignore[attr-defined]


@njit(nogil=True)
def _votes(votes: Any, logits: Any, classes: int, infinity: int, first: int, last: int) -> None:
    for row in range(first, last):
        votes[row - first] = _vote(logits, row * classes, classes, infinity)


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
        _votes(votes, logits, classes, infinity, first, end)
        _tally(counts, votes, slot, first, end)
        first = end
