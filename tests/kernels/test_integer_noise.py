"""What is particular to integer noise; what both kinds of noise share is in test_noise."""

import itertools
import math
from fractions import Fraction

import flint
import mpmath
import numpy as np
import pytest
import torch
from numba import config

from tcertify_kernels import _noise_numba as twin
from tcertify_kernels import add_integer_noise, add_noise, check_grid, integer_noise
from tests import reference
from tests.kernels.backends import BACKENDS, integer_noisy
from tests.kernels.known_answers import UNDECIDED_SAMPLES
from tests.kernels.test_noise import DTYPES, FORMATS, batch, images, poisoned

SIZES = [(0.25, 255), (0.5, 255), (1.0, 255), (0.12, 16), (0.5, 16), (0.3, 1), (1.5, 2), (6.0, 255)]
NUMBERS = {"sigma": 0.25, "levels": 255, "seed": 0, "stream": 1}
CELLS = np.arange(4356, dtype=np.uint32) + np.uint32(36096) << np.uint32(15)
NEVER = CELLS + np.uint32(0x80008000)  # a guide that never decides
UNDECIDED = (
    torch.zeros(3, dtype=torch.int32),
    torch.zeros(3, dtype=torch.int64),
    torch.tensor(UNDECIDED_SAMPLES),
)


def exact_tail(k, sigma, levels):
    """The whole part of 2^64 P(round(N) >= k), in 60 digits of mpmath, which has nothing of Arb."""
    deviations = (2 * k - 1) / (2 * Fraction(sigma) * levels)
    with mpmath.workdps(60):
        tail = mpmath.ncdf(-mpmath.mpf(deviations.numerator) / deviations.denominator)
        return int(mpmath.floor(tail * 2**64))


# --- the thresholds and the guide ---------------------------------------------------------------


@pytest.mark.parametrize(("sigma", "levels"), SIZES)
def test_thresholds_are_the_whole_parts_of_the_tails(sigma, levels):
    table = integer_noise.tables(sigma, levels)
    assert table.reach == levels + math.ceil(9 * Fraction(sigma) * levels) == len(table.thresholds)
    for k in {1, 2, 3, table.reach // 20 + 1, table.reach // 3, table.reach // 2, table.reach}:
        assert table.thresholds[-k] == exact_tail(k, sigma, levels)


@pytest.mark.parametrize(("sigma", "levels"), SIZES)
def test_the_mass_of_each_cell_is_that_of_the_rounded_gaussian(sigma, levels):
    """Within one of the 2^64 uniforms, of which at most one a threshold is undecided. The last cell
    holds all the rest.
    """
    table = integer_noise.tables(sigma, levels)
    ours = [2**63, *map(int, table.thresholds[::-1]), 0]  # uniforms below 1/2 with |z| >= k
    with flint.ctx.workprec(192):
        scale = flint.arb(sigma) * levels * flint.arb(2).sqrt()
        tails = [(flint.arb(2 * k - 1) / 2 / scale).erfc() / 2 for k in range(1, len(ours) - 1)]
        exact = [2**64 * tail for tail in (flint.arb(0.5), *tails, flint.arb(0))]
        for k in range(table.reach + 1):
            assert abs((exact[k] - exact[k + 1]) - (ours[k] - ours[k + 1])) <= 1


def test_nothing_is_lost_beyond_the_last_cell():
    """All larger draws would be clamped to the same pixel: y ends at K, at x + z >= K for every x
    from 0 on.
    """
    for sigma, levels in SIZES:
        table = integer_noise.tables(sigma, levels)
        assert table.grid[1:3] == (levels - table.reach, table.reach)
        assert table.reach - levels >= 9 * sigma * levels


@pytest.mark.parametrize(("sigma", "levels"), SIZES)
def test_the_guide_decides_as_the_thresholds_do_or_not_at_all(sigma, levels):
    """At the words of all thresholds, at all ends of cells, and next to both."""
    table = integer_noise.tables(sigma, levels)
    cells = np.arange(twin.GUIDE_SIZE - 4) + int(twin.GUIDE_FIRST) << int(twin.GUIDE_SHIFT)
    begins = (cells.astype(np.uint32).view(np.float32) - twin.GUIDE_OFFSET).astype(np.int64)
    words = np.concatenate([(table.thresholds >> np.uint64(32)).astype(np.int64), begins])
    words = np.unique((words[:, None] + np.arange(-200, 201, 7)).ravel())
    words = words[(words >= 0) & (words < 2**31)]
    place = (words.astype(np.float32) + twin.GUIDE_OFFSET).view(np.uint32)
    entry = table.guide[(place >> twin.GUIDE_SHIFT) - twin.GUIDE_FIRST] - place
    decided = (entry < 2**31) & (entry & 0xFFFF != 0)
    wide = words[decided].astype(np.uint64) << np.uint64(32)
    for low in (0, 2**32 - 1):  # whatever 32 further bits say
        passed = np.searchsorted(table.thresholds, wide + np.uint64(low), side="right")
        np.testing.assert_array_equal(table.reach - passed, entry[decided] >> 16)
    assert (entry[decided] >> 16).max() <= table.reach - levels  # so that no clamp is needed


@pytest.mark.parametrize(("sigma", "levels"), [(0.12, 255), (0.5, 255), (1.0, 255), (0.5, 16)])
def test_the_guide_decides_nearly_always(sigma, levels):
    table = integer_noise.tables(sigma, levels)
    words = np.random.default_rng(5).integers(0, 2**31, 100_000).astype(np.float32)
    place = (words + twin.GUIDE_OFFSET).view(np.uint32)
    entry = table.guide[(place >> twin.GUIDE_SHIFT) - twin.GUIDE_FIRST] - place
    assert ((entry >= 2**31) | (entry & 0xFFFF == 0)).mean() < 1e-4


# --- the batch ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sigma", "levels"), [(0.25, 255), (0.5, 16), (0.3, 1)])
def test_the_noise_is_the_rounded_gaussian_at_the_uniforms_of_the_counters(sigma, levels):
    slot, image, sample = batch(3, 2)
    x = images(2, (2, 3, 2)).mul(levels).round() / levels
    numbers = {"sigma": sigma, "levels": levels, "seed": 0xFEDCBA9876543210, "stream": 1}
    out, invalid = integer_noisy("numba", poisoned(3, (2, 3, 2)), x, slot, image, sample, **numbers)
    spread, reach = Fraction(sigma) * levels, integer_noise.tables(sigma, levels).reach
    for row, place, which, number in zip(out, slot, image.tolist(), sample.tolist(), strict=True):
        z = reference.integer_noise_row(numbers["seed"], which, number, 1, 12, spread)
        k = x[place].mul(levels).round().long().flatten()
        y = (k + torch.tensor(z)).clamp(levels - reach, reach)
        assert torch.equal(row.flatten(), (y.double() / levels).float())
    assert not invalid.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_the_word_does_not_decide_32_more_bits_do(backend):
    x = images(1, (3, 2, 2))
    z = [reference.integer_noise_row(0, 0, n, 1, 12, Fraction(255, 4)) for n in UNDECIDED_SAMPLES]
    expected = (x * 255).round() + torch.tensor(z).view(3, 3, 2, 2)
    for dtype, memory_format in itertools.product(DTYPES, FORMATS):
        out = poisoned(3, (3, 2, 2), dtype, memory_format)
        out, invalid = integer_noisy(backend, out, x, *UNDECIDED, **NUMBERS)
        assert torch.equal(out, (expected.double() / 255).float().to(dtype))
        assert not invalid.any()


@pytest.fixture
def other_tables(monkeypatch):
    """Tables with what is given in the place of their own."""
    own = integer_noise.tables(0.25, 255)

    def put(**parts):
        table = own._replace(**parts)
        monkeypatch.setattr(integer_noise, "_tables", lambda *_: table)
        integer_noise._arrays.cache_clear()

    yield put
    integer_noise._arrays.cache_clear()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(3, 2, 4), (5, 1, 3)])
def test_a_guide_that_never_decides_changes_nothing(backend, shape, other_tables):
    arrays = images(2, shape), *batch(5, 2)
    expected, _ = integer_noisy("numba", poisoned(5, shape), *arrays, **NUMBERS)
    other_tables(guide=NEVER)
    for dtype, memory_format in itertools.product(DTYPES, FORMATS):
        out = poisoned(5, shape, dtype, memory_format)
        found, invalid = integer_noisy(backend, out, *arrays, **NUMBERS)
        assert torch.equal(found, expected.to(dtype))
        assert not invalid.any()


def uniforms(sample, size):
    """Uniforms of 64 bits of one sample of image 0 in stream 1 under seed 0, below 1/2."""
    high, low = (reference.words_of_row(0, 0, sample, 1 + kind, size) for kind in (128, 192))
    words = [(a << 32 | b) for a, b in zip(high, low, strict=True)]
    return [min(word, 2**64 - 1 - word) for word in words[:size]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("element", "row"), [(0, 0), (6, 1), (11, 2)])
def test_a_row_whose_draw_ties_with_a_threshold_is_invalid_and_no_other(
    backend, element, row, other_tables
):
    tied = uniforms(UNDECIDED_SAMPLES[row], 12)[element]
    thresholds = integer_noise.tables(0.25, 255).thresholds.copy()
    thresholds[np.searchsorted(thresholds, tied)] = tied
    other_tables(thresholds=thresholds, guide=integer_noise.guide_of(thresholds))
    for dtype, memory_format in itertools.product(DTYPES, FORMATS):
        out = poisoned(3, (3, 2, 2), dtype, memory_format)
        out, invalid = integer_noisy(backend, out, images(1, (3, 2, 2)), *UNDECIDED, **NUMBERS)
        assert invalid.nonzero().flatten().tolist() == [row]
        assert not out.isnan().any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_draw_that_no_element_takes_makes_no_row_invalid(backend, other_tables):
    """The last block of a row is not full."""
    tied = uniforms(UNDECIDED_SAMPLES[0], 12)[11]
    thresholds = integer_noise.tables(0.25, 255).thresholds.copy()
    thresholds[np.searchsorted(thresholds, tied)] = tied
    other_tables(thresholds=thresholds, guide=integer_noise.guide_of(thresholds))
    _, invalid = integer_noisy(backend, poisoned(3, (11,)), images(1, (11,)), *UNDECIDED, **NUMBERS)
    assert not invalid.any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pixel", [0, 100, 255])
def test_the_sum_is_clamped_not_the_noise(backend, pixel, other_tables):
    """With all thresholds at 1/2 each draw is as large as it can be."""
    reach = integer_noise.tables(0.25, 255).reach
    other_tables(thresholds=np.full(reach, 2**63 - 1, np.uint64), guide=NEVER)
    x = torch.full((1, 12), pixel / 255)
    out, _ = integer_noisy(backend, poisoned(3, (12,)), x, *UNDECIDED, **NUMBERS)
    expected = torch.tensor([255 - reach, reach], dtype=torch.float64) / 255
    assert torch.equal(out.unique(), expected.float())


@pytest.mark.parametrize("levels", [1, 2, 3, 7, 16, 255, 1023, 4095])
def test_a_pixel_is_the_correctly_rounded_quotient(levels):
    """So an image without noise would come out as it is."""
    spread = max(0.31, levels / 10)
    sigma, size = spread / levels, 4096
    x = torch.randint(levels + 1, (1, size), generator=torch.Generator().manual_seed(2)) / levels
    zero = torch.zeros(4, dtype=torch.int64)
    arrays = x, zero.int(), zero, torch.arange(4)
    numbers = {"sigma": sigma, "levels": levels, "seed": 0, "stream": 1}
    out, _ = integer_noisy("numba", poisoned(4, (size,)), *arrays, **numbers)
    y = (out.double() * levels).round()
    assert torch.equal(out, (y / levels).float())


@pytest.mark.skipif(config.DISABLE_JIT, reason="too slow without compiled code")
def test_the_noise_does_not_depend_on_the_image():
    """Down to the last bit: no low bits reveal it, as they do under Gaussian noise in float32."""
    zero = torch.zeros(64, dtype=torch.int64)
    found = []
    for level in (3, 200):
        x = torch.full((1, 3072), level / 255)
        out, _ = integer_noisy(
            "numba", poisoned(64, (3072,)), x, zero.int(), zero, torch.arange(64), **NUMBERS
        )
        found.append((out.double() * 255).round() - level)
        assert torch.equal(out, ((found[-1] + level) / 255).float())
    assert torch.equal(*found)
    assert found[0].abs().max() < 6 * 64


@pytest.mark.skipif(config.DISABLE_JIT, reason="too slow without compiled code")
def test_integer_and_gaussian_noise_share_no_words():
    """Nor do two streams: their words would be equal, and so would the signs of the noise."""
    x, zero = torch.zeros(1, 3072), torch.zeros(64, dtype=torch.int64)
    arrays = x, zero.int(), zero, torch.arange(64)
    numbers = NUMBERS | {"sigma": 1.0}
    one, _ = integer_noisy("numba", poisoned(64, (3072,)), *arrays, **numbers)
    other, _ = integer_noisy("numba", poisoned(64, (3072,)), *arrays, **numbers | {"stream": 0})
    gaussian = add_noise(torch.empty(64, 3072), *arrays, sigma=1.0, seed=0, stream=1)
    for a, b in itertools.combinations((one, other, gaussian), 2):
        agree = ((a > 0) == (b > 0)).double().mean().item()
        assert abs(agree - 0.5) < 6 * 0.5 / (64 * 3072) ** 0.5


# --- misuse -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"levels": 0}, ValueError, "`levels` must be a whole number from 1 to 32767, got 0"),
        ({"levels": 2.5}, ValueError, "`levels` must be a whole number from 1 to 32767, got 2.5"),
        ({"levels": True}, ValueError, "`levels` must be a whole number .*, got True"),
        ({"levels": 65_535}, ValueError, "`levels` must be a whole number .*, got 65535"),
        (
            {"levels": 30_000},
            ValueError,
            "`levels` and nine standard deviations must be at most 327",
        ),
        ({"sigma": 0.001}, ValueError, "`sigma` must be at least 0.3 grey levels, .* got 0.255 of"),
        ({"sigma": 0.0}, ValueError, "`sigma` must be positive and finite, got 0.0"),
        ({"sigma": math.nan}, ValueError, "`sigma` must be positive and finite, got nan"),
        ({"sigma": math.inf}, ValueError, "`sigma` must be positive and finite, got inf"),
        ({"sigma": "a"}, TypeError, "`sigma` must be a number, got 'a'"),
        ({"sigma": torch.ones(2)}, TypeError, "`sigma` must be a number, got tensor"),
        ({"invalid": torch.zeros(2)}, TypeError, "`invalid` must be torch.bool, got torch.float32"),
        ({"invalid": torch.zeros(3).bool()}, ValueError, r"`invalid` must have shape \(2,\)"),
    ],
)
def test_misuse_is_named_before_anything_is_written(change, error, message):
    out, zero = torch.full((2, 3), 7.0), torch.zeros(2, dtype=torch.int64)
    arguments = {"invalid": torch.ones(2, dtype=torch.bool), **NUMBERS, **change}
    with pytest.raises(error, match=message):
        add_integer_noise(
            out, arguments.pop("invalid"), torch.zeros(1, 3), zero.int(), zero, zero, **arguments
        )
    assert (out == 7).all()


@pytest.mark.parametrize(
    ("pixel", "levels", "message"),
    [
        (0.5, 255, r"pixel \(0, 1, 2\) is 0.5, nearest level 128"),
        (0.3, 16, r"pixel \(0, 1, 2\) is 0.300000012, nearest level 5"),
        (1.5, 16, r"pixel \(0, 1, 2\) is 1.5, nearest level 16"),
        (-1 / 255, 255, r"pixel \(0, 1, 2\) is -0.00392156886, nearest level 0"),
        (math.nan, 255, r"pixel \(0, 1, 2\) is nan\."),
        (math.inf, 255, r"pixel \(0, 1, 2\) is inf, nearest level 255"),
        (100 / 255 + 1e-6, 255, r"pixel \(0, 1, 2\) is 0.392157853, nearest level 100"),
    ],
)
def test_a_pixel_off_the_grid_is_named_with_its_nearest_level(pixel, levels, message):
    x = torch.zeros(2, 2, 3)
    x[0, 1, 2] = x[1, 1, 2] = pixel
    with pytest.raises(ValueError, match=rf"`x` must be on the grid k / {levels}: {message}"):
        check_grid(x, levels)


@pytest.mark.parametrize("levels", [1, 16, 255, 1023])
def test_every_common_way_to_scale_levels_is_on_the_grid(levels):
    k = torch.arange(levels + 1)
    for x in (
        k / levels,
        k * torch.tensor(1 / levels),
        (k.double() / levels).float(),
        k.double() / levels,
    ):
        check_grid(x, levels)
