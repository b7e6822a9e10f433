"""The device's square root: philox.cuh rounds it as sqrt.rn does, without that one's branch."""

import numpy as np
import pytest
from numba import config, njit

from tcertify_kernels import _noise_numba as twin

pytestmark = pytest.mark.skipif(config.DISABLE_JIT, reason="too slow without compiled code")

ONE = 0x3F800000  # the bits of 1
LOWEST = ONE - 33 * 2**23  # and of 2^-33, the smallest uniform times 2^32


@njit
def wrongly_rounded(most):
    """How many of all mantissas, over two binades, have a reciprocal root off by at most `most`,
    relatively, from which the root comes out wrong; and how many reciprocals were tried.
    """
    wrong, tried = 0, 0
    for bits in range(ONE, ONE + 2**24):
        a = twin.float_of_bits(np.uint32(bits))
        exact = np.sqrt(np.float64(a))
        nearest = twin.bits_of_float(np.float32(1 / exact))
        bad = False
        for ulps in range(-3, 4):
            inverse = twin.float_of_bits(np.uint32(nearest + ulps))
            if abs(np.float64(inverse) * exact - 1) <= most:
                tried += 1
                guess = a * inverse
                residual = twin.fma(-guess, guess, a)
                root = twin.fma(residual, inverse * np.float32(0.5), guess)
                bad = bad or root != twin.square_root(a)
        wrong += bad
    return wrong, tried


def test_the_root_is_rounded_correctly_from_every_reciprocal_off_by_less_than_1_in_2_to_23_3():
    wrong, tried = wrongly_rounded(2.0**-23.3)
    assert wrong == 0
    assert tried > 2**24


def test_from_the_worst_reciprocal_that_ptx_allows_two_mantissas_would_not_be():
    """rsqrt.approx promises 2^-22.9. That the device does better on these two is what the
    compiler's own sqrt.rn counts on: it is the same instructions.
    """
    assert wrongly_rounded(2.0**-22.9)[0] == 2


@njit
def extremes():
    """The number of zeros and of negative arguments of the root, and the range of the others."""
    zeros, negative = 0, 0
    low, high = np.float32(np.inf), np.float32(0)
    for bits in range(LOWEST, LOWEST + 41 * 2**23, 7):  # uniforms of the far tail, up to 2^8
        high = max(high, twin.radicand(twin.float_of_bits(np.uint32(bits))))
    for shift in range(9):  # from the words that float32 holds exactly to those it rounds
        for word in range(0 if shift == 0 else 2**23, 2**24):
            a = twin.radicand(twin.middle(np.uint32(word << shift)))
            if a > 0:
                low, high = min(low, a), max(high, a)
            zeros, negative = zeros + (a == 0), negative + (a < 0)
    a = twin.radicand(twin.middle(np.uint32(2**32 - 1)))  # rounds to 2^32
    return zeros + (a == 0), negative + (a < 0), low, high


def test_the_root_is_taken_of_zero_or_of_what_is_neither_subnormal_nor_huge():
    zeros, negative, low, high = extremes()
    assert (zeros, negative) == (1, 0)
    assert low == 2.0**-23
    assert 90 < high < 91
