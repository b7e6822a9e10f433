"""Both kinds of noise: values that add the noise of the kernels; and which of them images get."""

import math

import pytest
import torch

from benchmarks.noise_assumption import bend, lost_tail
from tcertify.bounds import charged_alpha
from tcertify.sampling import SELECTION, GaussianNoise, IntegerNoise
from tcertify.sampling.noise import choose_noise, is_on_grid
from tcertify_kernels import add_integer_noise, add_noise
from tcertify_kernels.integer_noise import MAX_REACH, reach

GREY = torch.arange(48).reshape(3, 4, 4) / 255
FLOATS = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_it_adds_the_noise_of_the_kernels():
    images = torch.rand(2, 3, 4, 4)
    slot = torch.tensor([1, 0, 1], dtype=torch.int32)
    where = images, slot, torch.tensor([7, 8, 9]), torch.tensor([0, 5, 2**40])
    ties = torch.ones(3, dtype=torch.bool)
    out = GaussianNoise(0.5, 3).add(torch.empty(3, 3, 4, 4), ties, *where, stream=SELECTION)
    expected = add_noise(torch.empty(3, 3, 4, 4), *where, sigma=0.5, seed=3, stream=SELECTION)
    assert torch.equal(out, expected)
    on_grid = (images * 255).round() / 255, *where[1:]
    integer = IntegerNoise(0.5, 255, 3)
    out = integer.add(torch.empty(3, 3, 4, 4), ties, *on_grid, stream=SELECTION)
    assert not ties.any()
    numbers = {"sigma": 0.5, "levels": 255, "seed": 3, "stream": SELECTION}
    assert torch.equal(out, add_integer_noise(torch.empty(3, 3, 4, 4), ties, *on_grid, **numbers))


def test_it_is_a_value():
    assert IntegerNoise(1, 255, 2) == IntegerNoise(1.0, 255, 2) != GaussianNoise(1, 2)
    assert (IntegerNoise(1, 16).kind, IntegerNoise(1, 16).levels) == ("integer", 16)
    assert GaussianNoise(1, 2) == GaussianNoise(1.0, 2)
    assert len({GaussianNoise(1), GaussianNoise(1.0), GaussianNoise(2)}) == 2
    assert (GaussianNoise(1).kind, GaussianNoise(1).levels) == ("gaussian", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), "`sigma` must be positive and finite, got 0.0"),
        ((float("nan"),), "`sigma` must be positive and finite, got nan"),
        (("1",), "`sigma` must be a number, got '1'"),
        ((1.0, -1), "`seed` must be at least 0, got -1"),
        ((1.0, 2**64), "`seed` must be at most"),
    ],
)
def test_bad_values_get_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianNoise(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.01, 16), "`sigma` must be at least 0.3 grey levels"),
        ((20.0, 255), "`levels` and nine standard deviations must be at most 32767"),
        ((0.5, 0), "`levels` must be a whole number from 1 to 32767, got 0"),
        ((0.5, 2.5), "`levels` must be a whole number from 1 to 32767, got 2.5"),
        ((0.5, True), "`levels` must be a whole number from 1 to 32767, got True"),
        ((0.5, 16, -1), "`seed` must be at least 0, got -1"),
    ],
)
def test_integer_noise_that_cannot_be_drawn_gets_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        IntegerNoise(*arguments)
    with pytest.raises(ValueError, match=message):
        choose_noise("integer", *arguments[:1], *arguments[2:], levels=arguments[1])


def test_an_image_off_the_grid_is_named():
    images = torch.stack([GREY, FLOATS, GREY])
    IntegerNoise(0.5, 255).check(images[::2], [7, 8])
    with pytest.raises(ValueError, match=r"^Image 8: `x` must be on the grid k / 255: pixel \(0,"):
        IntegerNoise(0.5, 255).check(images, [7, 8, 9])
    GaussianNoise(0.5).check(images, [7, 8, 9])


@pytest.mark.parametrize(
    ("sigma", "options", "expected"),
    [
        (0.5, {"images": [GREY]}, 255),
        (0.5, {"images": [GREY, FLOATS]}, None),
        (0.5, {"images": []}, None),
        (0.5, {"images": [FLOATS], "known": 16}, 16),  # a data set is believed
        (0.5, {"images": [GREY], "known": 16, "levels": 255}, 255),
        (0.5, {"images": [GREY], "levels": 16}, None),
        (0.5, {"images": [torch.tensor([0.0, 0.25, 1.0])], "levels": 4}, 4),
        (0.5, {"images": [2 * GREY + 1]}, None),
        (0.001, {"images": [GREY]}, None),
        (0.001, {"known": 255}, None),
        (100.0, {"images": [GREY]}, None),
    ],
)
def test_auto_takes_integer_noise_wherever_it_can_be(sigma, options, expected):
    found = choose_noise("auto", sigma, 3, **options)
    assert (found.levels, found.sigma, found.seed) == (expected, sigma, 3)
    assert choose_noise("gaussian", sigma, 3) == GaussianNoise(sigma, 3)


def test_integer_noise_that_was_asked_for_has_the_levels_that_are_said():
    assert choose_noise("integer", 0.5).levels == 255
    assert choose_noise("integer", 0.5, known=16).levels == 16
    assert choose_noise("integer", 0.5, known=16, levels=4).levels == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise": "uniform"}, "`noise` must be one of auto, integer, gaussian, got 'uniform'"),
        ({"noise": "gaussian", "levels": 255}, "`levels` are those of integer noise, got 255"),
        ({"noise": "auto", "levels": -1}, "`levels` must be a whole number"),
        ({"noise": "auto", "seed": -1}, "`seed` must be at least 0"),
        ({"noise": "auto", "sigma": 0}, "`sigma` must be positive"),
    ],
)
def test_a_choice_that_makes_no_sense_gets_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        choose_noise(**{"sigma": 0.5} | arguments)


def test_the_grid_is_kept_in_float32_and_not_in_less():
    assert is_on_grid(GREY, 255)
    assert not is_on_grid(GREY.half(), 255)
    assert is_on_grid((torch.arange(17) / 16).bfloat16(), 16)


def test_louder_noise_ends_where_the_tables_do():
    assert GaussianNoise(0.5, 3).louder(8) == GaussianNoise(4.0, 3)
    assert IntegerNoise(0.5, 255, 3).louder(4) == IntegerNoise(2.0, 255, 3)
    loudest = IntegerNoise(5.0, 255, 3).louder(8)
    assert MAX_REACH - 2 <= reach(loudest.sigma, 255) <= MAX_REACH
    assert loudest.louder(2) == loudest


def test_what_gaussian_noise_owes_grows_with_samples_and_pixels_and_integer_noise_owes_nothing():
    noise = GaussianNoise(0.5)
    for size, n in ((64, 10**5), (3072, 10**5), (150_528, 10**4)):
        owed = noise.n_tau(n, size, 0.001)
        variance = 2 * n * (2 * bend(size)) ** 2  # of the logarithm of the likelihood ratio
        rest = math.sqrt(variance * math.log(1000)) - variance / 4
        assert owed == pytest.approx(n * lost_tail(size, 64) / 0.001 + rest, rel=0.05)
        assert noise.charged_alpha(n, size, 0.001) == charged_alpha(0.001, n, size)
        assert owed < noise.n_tau(2 * n, size, 0.001)
    assert noise.n_tau(10**5, 3072, 0.001) < 0.01 < noise.n_tau(10**5, 150_528, 0.001)
    assert IntegerNoise(0.5, 255).n_tau(10**9, 150_528, 0.001) is None
    assert IntegerNoise(0.5, 255).charged_alpha(10**9, 150_528, 0.001) == 0.001
