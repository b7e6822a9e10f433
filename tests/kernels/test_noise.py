import ctypes
import hashlib
import itertools
import subprocess

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config, njit

from tcertify.bounds.charge import BEND, LARGEST_BEND
from tcertify_kernels import _batch, _noise_numba, _noise_torch, add_integer_noise, add_noise, noise
from tests import reference
from tests.kernels import on_cpu
from tests.kernels.backends import BACKENDS, INTEGER, KINDS, integer_noisy, noisy
from tests.kernels.known_answers import DIGEST, FAR_SAMPLES, KNOWN_ANSWERS

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FORMATS = (torch.contiguous_format, torch.channels_last)
SHAPES = ((1, 1, 1), (1, 8, 8), (2, 3, 5), (3, 2, 4), (3, 1, 3), (3, 8, 9), (5, 4, 4), (1, 1, 1301))


def batch(rows, slots, seed=0):
    """Rows that come from different images, with large numbers of images and samples."""
    place = torch.Generator().manual_seed(seed)
    slot = torch.randint(slots, (rows,), generator=place)
    image = slot + (2**32 - slots)
    sample = torch.arange(rows) + 2**40
    return slot.int(), image, sample


def poisoned(rows, shape, dtype=torch.float32, memory_format=torch.contiguous_format):
    return torch.full((rows, *shape), torch.nan, dtype=dtype).to(memory_format=memory_format)


def images(slots, shape):
    """Images of 256 grey levels."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (slots, *shape), generator=generator) / 255


# --- the generator --------------------------------------------------------------------------


def words_of_numba(counter, key):
    return [int(word) for word in _noise_numba.philox(*map(np.uint32, (*counter, *key)))]


def words_of_torch(counter, key):
    return [int(word) for word in _noise_torch.philox([torch.tensor(c) for c in counter], *key)]


def words_of_shim(counter, key):
    four = ctypes.c_uint32 * 4
    words = four()
    on_cpu.library().run_philox(four(*counter), (ctypes.c_uint32 * 2)(*key), words)
    return list(words)


@pytest.mark.parametrize("known", KNOWN_ANSWERS)
@pytest.mark.parametrize(
    "words_of",
    [
        reference.philox_words,
        words_of_numba,
        words_of_torch,
        pytest.param(words_of_shim, marks=on_cpu.needs_gcc),
    ],
)
def test_philox_gives_the_known_answers(words_of, known):
    counter, key, words = known
    assert list(words_of(counter, key)) == words


@on_cpu.needs_gcc
def test_philox_agrees_with_random123(tmp_path):
    program = tmp_path / "oracle.cpp"
    program.write_text(
        "#include <Random123/philox.h>\n#include <stdio.h>\n"
        "int main() { unsigned c[4], k[2];\n"
        '  while (scanf("%x%x%x%x%x%x", c, c+1, c+2, c+3, k, k+1) == 6) {\n'
        "    philox4x32_ctr_t ctr = {{c[0], c[1], c[2], c[3]}};\n"
        "    philox4x32_key_t key = {{k[0], k[1]}};\n"
        "    philox4x32_ctr_t r = philox4x32(ctr, key);\n"
        '    printf("%x %x %x %x\\n", r.v[0], r.v[1], r.v[2], r.v[3]); } }\n'
    )
    compiled = subprocess.run(
        ["g++", program, "-o", tmp_path / "oracle"], capture_output=True, text=True
    )
    if "Random123/philox.h: No such file" in compiled.stderr:
        pytest.skip("Random123's header is not installed (Debian: librandom123-dev)")
    assert compiled.returncode == 0, compiled.stderr
    counters = np.random.default_rng(2).integers(0, 2**32, (200, 6)).tolist()
    asked = "\n".join(" ".join(f"{word:x}" for word in row) for row in counters)
    answer = subprocess.run([tmp_path / "oracle"], input=asked, capture_output=True, text=True)
    expected = [[int(word, 16) for word in line.split()] for line in answer.stdout.splitlines()]
    assert [list(words_of_numba(row[:4], row[4:])) for row in counters] == expected


@njit
def _pairs(radius, angle, further, out):
    for i in range(len(radius)):
        uniform = _noise_numba.middle(radius[i])
        if radius[i] < _noise_numba.LAST_CELLS:
            uniform = _noise_numba.finer_middle(radius[i], further[i])
        out[i] = _noise_numba.normal_pair(uniform, angle[i])


def pairs(radius, angle, further):
    out = np.empty((len(radius), 2), np.float32)
    _pairs(*(words.astype(np.uint32) for words in (radius, angle, further)), out)
    return out


def pairs_of_torch(radius, angle, further):
    radius, angle, further = map(torch.from_numpy, (radius, angle, further))
    both = _noise_torch.normal_pair(_noise_torch.middle(radius, further), angle)
    return torch.stack(both, dim=1).numpy()


def pairs_of_shim(radius, angle, further):
    out = np.empty((len(radius), 2), np.float32)
    for row, words in zip(out, zip(radius, further, angle, strict=True), strict=True):
        address = ctypes.c_void_p(row.ctypes.data)
        on_cpu.library().run_normal_pair(*map(ctypes.c_uint32, map(int, words)), address)
    return out


EDGES = [0, 1, 2, 2**22, 2**23, 2**24 - 1, 2**30, 2**31, 2**31 + 1, 3 << 30, 2**32 - 129, 2**32 - 1]


def words_of_pairs():
    """Radius, angle and further bits: edges, the last cells, and some in between."""
    words = np.random.default_rng(3).integers(0, 2**32, (3000, 3))
    words[:1000, 0] %= 512
    return np.concatenate([list(itertools.product(EDGES, EDGES, EDGES)), words])


def test_normals_are_those_of_box_muller_to_a_few_units_in_the_last_place():
    words = words_of_pairs()
    exact = np.array([reference.normal_of_words(*row) for row in words.tolist()])
    error = np.abs(pairs(*words.T) - exact)
    length = np.hypot(*exact.T)[:, None]
    assert (error <= 2.5e-7 * length).all()


@pytest.mark.parametrize(
    "pairs_of", [pairs_of_torch, pytest.param(pairs_of_shim, marks=on_cpu.needs_gcc)]
)
def test_a_pair_has_the_same_bits_everywhere(pairs_of):
    words = words_of_pairs()
    np.testing.assert_array_equal(pairs_of(*words.T), pairs(*words.T))


def test_no_normal_is_larger_than_the_stated_maximum():
    zero = np.array([0])
    largest = np.float32(np.sqrt(-2 * np.log(0.5 / 2.0**64)))
    assert pairs(zero, zero, zero)[0, 0] == largest
    assert largest == np.float32(9.492583)


def test_radii_fall_with_the_word_and_its_further_bits():
    """The cells of 64 bits lie between those of 32."""
    further = [0, 1, 2**16, 2**31, 2**32 - 1]
    words = [(radius, 0, more) for radius in range(300) for more in further]
    lengths = pairs(*np.array(words).T)[:, 0].reshape(300, 5)
    assert (np.diff(lengths[:256]) < 0).any(axis=1).all()
    assert (np.diff(lengths[:256].ravel()) <= 0).all()
    assert (np.diff(lengths[255:, 0]) < 0).all()
    assert lengths[255, -1] > lengths[256, 0]


def test_ordinary_words_give_the_normals_that_they_gave_before_the_tail_was_lengthened():
    out, zero = torch.empty(8, 3, 32, 32), torch.zeros(8, dtype=torch.int64)
    arrays = torch.zeros(1, 3, 32, 32), zero.int(), zero + 7, torch.arange(8) + 2**40
    add_noise(out, *arrays, sigma=1.0, seed=2**63 + 11, stream=1)
    assert hashlib.sha256(out.numpy().tobytes()).hexdigest() == DIGEST


def fit_normal():
    import importlib.util

    path = on_cpu.KERNELS.parent / "fit_normal.py"
    spec = importlib.util.spec_from_file_location("fit_normal", path)
    fit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fit)
    return fit


def test_the_bend_of_the_density_is_proved():
    polynomials = [
        [float(getattr(_noise_numba, f"_{name}_{degree}")) for degree in range(terms)]
        for name, terms in (("LOG", 9), ("SIN", 3), ("COS", 4))
    ]
    log_two = float(_noise_numba._EXPONENT_SCALE) * 2**23
    mean, largest = fit_normal().bend(
        *polynomials, log_two, float(_noise_numba._ANGLE_SCALE) * 2**31
    )
    assert 0.99 * BEND < mean < BEND
    assert 0.5 * LARGEST_BEND < largest < LARGEST_BEND


def test_the_coefficients_are_those_of_the_fit():
    fit = fit_normal()
    header = (on_cpu.KERNELS / "noise.cu").read_text()
    for name, fitted in (("LOG", fit.fit_log()), ("SIN", fit.fit_sin()), ("COS", fit.fit_cos())):
        coefficients, error = fitted
        assert error < 5e-9
        assert getattr(_noise_torch, f"_{name}") == tuple(coefficients)
        for degree, coefficient in enumerate(coefficients):
            assert float(getattr(_noise_numba, f"_{name}_{degree}")) == coefficient
            assert f"constexpr float {name}_{degree} = {coefficient!r}f;" in header
    for name in ("EXPONENT_SCALE", "EXPONENT_SHIFT", "ANGLE_SCALE"):
        value = float(getattr(_noise_numba, f"_{name}"))
        assert f"constexpr float {name} = {value!r}f;" in header


# --- the batch --------------------------------------------------------------------------------


def test_the_noise_is_what_the_counters_say():
    slot, image, sample = batch(3, 2)
    seed, shape = 0xFEDCBA9876543210, (2, 3, 5)
    out = poisoned(3, shape)
    add_noise(out, torch.zeros(2, *shape), slot, image, sample, sigma=1.0, seed=seed, stream=1)
    for row, which, number in zip(out, image.tolist(), sample.tolist(), strict=True):
        expected = reference.noise_row(seed, which, number, 1, 30)
        np.testing.assert_allclose(row.numpy().ravel(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_far_tail_takes_32_more_bits(backend):
    rows, zero = len(FAR_SAMPLES), torch.zeros(len(FAR_SAMPLES), dtype=torch.int64)
    arrays = torch.zeros(1, 3, 2, 2), zero.int(), zero, torch.tensor(FAR_SAMPLES)
    numbers = {"sigma": 1.0, "seed": 0, "stream": 1}
    expected = [reference.noise_row(0, 0, sample, 1, 12) for sample in FAR_SAMPLES]
    assert all(np.hypot(z[0::2], z[1::2]).max() > 5.76 for z in expected)
    for dtype, memory_format in itertools.product(DTYPES, FORMATS):
        out = noisy(backend, poisoned(rows, (3, 2, 2), dtype, memory_format), *arrays, **numbers)
        twin = noisy("numba", poisoned(rows, (3, 2, 2)), *arrays, **numbers)
        np.testing.assert_allclose(twin.reshape(rows, 12), expected, rtol=0, atol=3e-6)
        assert torch.equal(out, twin.to(dtype))


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("kind", [*KINDS, "gaussian, a sigma a row"])
def test_every_backend_gives_the_same_bits(backend, dtype, memory_format, kind):
    rows, slots = 7, 3
    sigma = torch.linspace(1e-3, 3.0, rows) if kind not in KINDS else 0.7
    numbers = {"kind": kind.split(",")[0], "sigma": sigma, "seed": 2**63 + 11, "stream": 1}
    for shape in SHAPES:
        arrays = images(slots, shape), *batch(rows, slots)
        expected = noisy("numba", poisoned(rows, shape, dtype, memory_format), *arrays, **numbers)
        found = noisy(backend, poisoned(rows, shape, dtype, memory_format), *arrays, **numbers)
        assert not expected.isnan().any()
        assert torch.equal(found, expected), shape


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_layout_or_dtype_changes_nothing_but_the_rounding(backend, kind):
    shape, rows = (3, 4, 8), 9
    arrays = images(2, shape), *batch(rows, 2)
    numbers = {"kind": kind, "sigma": 0.25, "seed": 5, "stream": 0}
    expected = noisy(backend, poisoned(rows, shape), *arrays, **numbers)
    for dtype, memory_format in itertools.product(DTYPES, FORMATS):
        out = noisy(backend, poisoned(rows, shape, dtype, memory_format), *arrays, **numbers)
        assert out.is_contiguous(memory_format=memory_format)
        assert torch.equal(out, expected.to(dtype))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_dimensions_may_follow_the_rows(backend, kind):
    for shape in ((6,), (2, 3), (1, 2, 1, 3)):
        arrays = images(2, (6,)).reshape(2, *shape), *batch(4, 2)
        numbers = {"kind": kind, "sigma": 1.0, "seed": 5, "stream": 0}
        out = noisy(backend, poisoned(4, shape), *arrays, **numbers)
        flat = (arrays[0].reshape(2, 6), *arrays[1:])
        expected = noisy(backend, poisoned(4, (6,)), *flat, **numbers)
        assert torch.equal(out.reshape(4, 6), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_do_not_start_on_16_bytes_give_the_same_bits(backend, kind):
    shape, rows = (3, 4, 4), 5
    x, *arrays = images(2, shape), *batch(rows, 2)
    numbers = {"kind": kind, "sigma": 0.5, "seed": 5, "stream": 0}
    for dtype in DTYPES:
        expected = noisy(backend, poisoned(rows, shape, dtype), x, *arrays, **numbers)
        room = torch.full((rows * 48 + 2,), torch.nan, dtype=dtype)
        out = room[1:-1].view(rows, *shape)
        shifted = torch.cat([torch.zeros(1), x.flatten()])[1:].view_as(x)
        found = noisy(backend, out, shifted, *arrays, **numbers)
        assert torch.equal(found, expected)
        assert room[[0, -1]].isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_infinite_and_subnormal_pixels_stay_what_they_are(backend):
    x = torch.tensor([[torch.nan, torch.inf, -torch.inf, 1e-40, -1e-45, 65520.0, 3e38, 1.0]])
    one = torch.zeros(1, dtype=torch.int64)
    numbers = {"sigma": 2.0**-126, "seed": 5, "stream": 0}
    for dtype in DTYPES:
        out = noisy(backend, poisoned(1, (8,), dtype), x, one.int(), one, one, **numbers)
        expected = x.to(dtype)
        assert out[0, 0].isnan()
        assert torch.equal(out[0, [1, 2, 5, 6, 7]], expected[0, [1, 2, 5, 6, 7]])
    z = add_noise(poisoned(1, (8,)), torch.zeros_like(x), one.int(), one, one, **numbers).double()
    out = noisy(backend, poisoned(1, (8,)), x, one.int(), one, one, **numbers)
    assert torch.equal(out[0, 3:5], (x.double() + z)[0, 3:5].float())


@given(st.data())
@settings(max_examples=15)
def test_the_noise_of_a_row_depends_on_nothing_around_it(data):
    rows, slots = data.draw(st.integers(2, 40)), 3
    shape = data.draw(st.sampled_from(SHAPES))
    backend = data.draw(st.sampled_from(["numba", "torch"]))
    kind = data.draw(st.sampled_from(list(KINDS)))
    x, (slot, image, sample) = images(slots, shape), batch(rows, slots)
    numbers = {"kind": kind, "sigma": 0.5, "seed": 9, "stream": 1}
    whole = noisy("numba", poisoned(rows, shape), x, slot, image, sample, **numbers)
    order = torch.tensor(data.draw(st.permutations(range(rows))))
    size = data.draw(st.integers(1, rows))
    for part in order.split(size):  # batches of any size, in any order, from any shard
        stored = slot[part].unique()  # a shard holds the images it needs, wherever they were
        place = torch.searchsorted(stored, slot[part]).int()
        out = poisoned(len(part), shape, memory_format=data.draw(st.sampled_from(FORMATS)))
        noisy(backend, out, x[stored], place, image[part], sample[part], **numbers)
        assert torch.equal(out, whole[part])


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_threads_changes_nothing(kind):
    shape, rows = (3, 32, 32), 150
    arrays = images(2, shape), *batch(rows, 2)
    if config.DISABLE_JIT:
        arrays, shape, rows = (images(2, (3, 4, 4)), *batch(3, 2)), (3, 4, 4), 3
    numbers = {"kind": kind, "sigma": 0.5, "seed": 9, "stream": 1}
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(noisy("numba", poisoned(rows, shape), *arrays, **numbers))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("half", [True, False])
def test_rounding_to_16_bits_is_that_of_torch(half):
    bits = np.random.default_rng(4).integers(0, 2**32, 3000, dtype=np.uint32)
    near = np.arange(2**11, dtype=np.uint32) << 21  # every exponent, with ties and their neighbours
    ties = [
        near + np.uint32(step) for step in (0, 1, 0x1000, 0xFFF, 0x1001, 0x8000, 0x7FFF, 0x8001)
    ]
    values = np.concatenate([bits, *ties]).view(np.float32)
    values = values[~np.isnan(values)]
    ours = _noise_numba.half_bits if half else _noise_numba.bfloat_bits
    found = np.array([int(ours(value)) for value in values]).astype(np.uint16)
    expected = torch.from_numpy(values).to(torch.float16 if half else torch.bfloat16)
    np.testing.assert_array_equal(found, expected.view(torch.uint16).numpy())
    assert int(ours(np.float32(np.nan))) == 0x7FFF


@pytest.mark.parametrize("backend", ["torch", *BACKENDS[2:]])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_only_the_device_sees_to_be_wrong_is_nan_and_the_others_are_right(
    backend, kind, monkeypatch
):
    rows, shape = 9, (1, 2, 3)
    x, (slot, image, sample) = images(2, shape), batch(rows, 2)
    numbers = {"sigma": 0.5, "seed": 1, "stream": 1}
    good = noisy("numba", poisoned(rows, shape), x, slot, image, sample, kind=kind, **numbers)
    slot[0], slot[1], image[2], image[3], sample[4], sample[5] = -1, 2, 2**32, -1, -1, 2**56
    wrong = [0, 1, 2, 3, 4, 5]
    for module, check in ((_batch, "check_range"), (noise, "check_real_range")):
        monkeypatch.setattr(module, check, lambda *_: None)
    out, arrays = torch.zeros(rows, *shape), (x, slot, image, sample)
    if kind == INTEGER:
        out, invalid = integer_noisy(backend, out, *arrays, **KINDS[INTEGER] | numbers)
        assert invalid.nonzero().flatten().tolist() == wrong
    else:
        sigma = torch.full((rows,), 0.5)
        sigma[6], sigma[7] = 0.0, torch.inf
        wrong += [6, 7]
        out = noisy(backend, out, *arrays, **numbers | {"sigma": sigma})
    right = [row for row in range(rows) if row not in wrong]
    assert out[wrong].isnan().all()
    assert torch.equal(out[right], good[right])


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_rows_is_left_as_it_is(kind):
    none, out = torch.zeros(0, dtype=torch.int64), torch.empty(0, 3)
    arrays = torch.zeros(1, 3), none.int(), none, none
    assert noisy("numba", out, *arrays, kind=kind, sigma=1, seed=0, stream=0) is out


# --- misuse -----------------------------------------------------------------------------------

ROW = torch.zeros(2, dtype=torch.int64)
GOOD = {
    "out": torch.full((2, 3, 2, 2), 7.0),
    "x": torch.zeros(4, 3, 2, 2),
    "slot": ROW.int(),
    "image": ROW,
    "sample": ROW,
    "sigma": 0.5,
    "seed": 0,
    "stream": 1,
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"out": np.zeros((2, 3))}, TypeError, "`out` must be a torch tensor, got ndarray"),
        ({"out": torch.zeros(2, 3, 2, 2).double()}, TypeError, "`out` must be torch.float32, "),
        ({"out": torch.zeros(2, 3, 2, 2, device="meta")}, ValueError, "`out` must be on the CPU"),
        ({"out": torch.zeros(2)}, ValueError, r"`out` must have shape \(B, ...\), got \(2,\)"),
        (
            {"out": torch.zeros(2, 3, 2, 4)[..., ::2]},
            ValueError,
            "`out` must be contiguous or channels-last, got strides",
        ),
        ({"x": [1.0]}, TypeError, "`x` must be a torch tensor, got list"),
        ({"x": torch.zeros(0, 3, 2, 2)}, ValueError, "`x` must hold at least one image"),
        (
            {"x": torch.zeros(4, 3, 2, 2).half()},
            TypeError,
            "`x` must be torch.float32, got torch.fl",
        ),
        (
            {"x": torch.zeros(4, 3, 2, 3)},
            ValueError,
            r"`x` must have shape \(4, 3, 2, 2\), got \(4",
        ),
        (
            {"x": torch.zeros(4, 3, 2, 4)[..., ::2]},
            ValueError,
            "`x` must be contiguous, got strides",
        ),
        ({"slot": ROW}, TypeError, "`slot` must be torch.int32, got torch.int64"),
        ({"slot": torch.tensor([0, 4]).int()}, ValueError, r"`slot` must be in \[0, 4\), got 4"),
        ({"slot": torch.tensor([0, -1]).int()}, ValueError, r"`slot` must be in \[0, 4\), got -1"),
        ({"image": ROW.int()}, TypeError, "`image` must be torch.int64, got torch.int32"),
        (
            {"image": torch.zeros(3).long()},
            ValueError,
            r"`image` must have shape \(2,\), got \(3,\)",
        ),
        ({"image": ROW + 2**32}, ValueError, r"`image` must be in \[0, 4294967296\), got 42949672"),
        ({"sample": ROW + 2**56}, ValueError, r"`sample` must be in \[0, 72057594037927936\), got"),
        ({"sample": ROW - 1}, ValueError, r"`sample` must be in \[0, 72057594037927936\), got -1"),
        ({"sample": ROW.to("meta")}, ValueError, "`sample` must be on cpu, got meta"),
        ({"sigma": 0.0}, ValueError, "`sigma` must be in .*, got 0.0"),
        ({"sigma": -1}, ValueError, "`sigma` must be in .*, got -1.0"),
        ({"sigma": float("nan")}, ValueError, "`sigma` must be in .*, got nan"),
        ({"sigma": float("inf")}, ValueError, "`sigma` must be in .*, got inf"),
        ({"sigma": "0.5"}, TypeError, "`sigma` must be a number, got '0.5'"),
        ({"sigma": [0.5, 0.5]}, TypeError, r"`sigma` must be a number, got \[0.5, 0.5\]"),
        ({"sigma": torch.tensor([0.5, 0.0])}, ValueError, "`sigma` must be in .*, got 0"),
        ({"sigma": torch.tensor(0.5)}, ValueError, r"`sigma` must have shape \(2,\), got \(\)"),
        (
            {"seed": 2**64},
            ValueError,
            r"`seed` must be in \[0, 2\*\*64\), got 18446744073709551616",
        ),
        ({"seed": -1}, ValueError, r"`seed` must be in \[0, 2\*\*64\), got -1"),
        ({"seed": 0.5}, TypeError, "`seed` must be a whole number, got 0.5"),
        ({"stream": True}, TypeError, "`stream` must be a whole number, got True"),
        ({"stream": 64}, ValueError, r"`stream` must be in \[0, 2\*\*6\), got 64"),
        ({"backend": "cuda"}, ValueError, "`backend` must be None or \"torch\", got 'cuda'"),
    ],
)
def test_misuse_is_named_before_anything_is_written(change, error, message):
    arguments = {**GOOD, **change}
    tensors = [arguments.pop(name) for name in list(GOOD)[:5]]
    with pytest.raises(error, match=message):
        add_noise(*tensors, **arguments)
    if "sigma" not in change:
        invalid = torch.zeros(2, dtype=torch.bool)
        with pytest.raises(error, match=message):
            add_integer_noise(tensors[0], invalid, *tensors[1:], levels=255, **arguments)
    assert (GOOD["out"] == 7).all()


def test_an_image_with_more_elements_than_the_counter_tells_apart_is_refused():
    huge = torch.empty(1).expand(2, 2**31 + 1)  # no memory stands behind it
    with pytest.raises(
        ValueError, match=r"`out` must have at most 2\*\*31 elements a row, got 2147"
    ):
        add_noise(huge, *(GOOD[name] for name in list(GOOD)[1:5]), sigma=1, seed=0, stream=0)
