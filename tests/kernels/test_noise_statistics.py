"""The noise is standard normal and independent, as far as seeds fixed beforehand can show."""

import numpy as np
import pytest
import torch
from numba import config
from scipy import special, stats

from tcertify_kernels import add_noise

pytestmark = pytest.mark.skipif(config.DISABLE_JIT, reason="too slow without compiled code")

LEAST = 1e-4  # of each p-value; the seeds are fixed, so that no run differs from another


def normals(rows, size, *, seed=20_200_103, image=0, sample=0, stream=1):
    """Standard normals of samples `sample`, `sample` + 1, ... of one image."""
    out, zero = torch.empty(rows, size), torch.zeros(rows, dtype=torch.int64)
    samples = torch.arange(rows) + sample
    numbers = {"sigma": 1.0, "seed": seed, "stream": stream}
    return add_noise(
        out, torch.zeros(1, size), zero.int(), zero + image, samples, **numbers
    ).numpy()


def chi_square(counts, cells):
    expected = counts.sum() / cells
    return stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), cells - 1)


def test_a_thousand_bins_of_equal_probability_are_filled_equally():
    bins = (special.ndtr(normals(512, 8192).astype(np.float64)) * 1000).astype(np.int64)
    assert chi_square(np.bincount(bins.ravel(), minlength=1000), 1000) > LEAST


def test_moments_are_those_of_a_standard_normal():
    z = normals(512, 8192, seed=1).astype(np.float64)
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        deviation = ((z**power).mean() - mean) * np.sqrt(z.size / variance)
        assert 2 * stats.norm.sf(abs(deviation)) > LEAST


def test_tails_hold_what_they_should_to_five_and_a_half_sigma():
    limits, found, draws = np.array([4.0, 4.5, 5.0, 5.5]), np.zeros((2, 4), np.int64), 0
    for part in range(16):
        z = normals(256, 2**16, seed=2, image=part)
        draws += z.size
        far = z[np.abs(z) > limits[0]]
        found += (
            [(far > limit).sum() for limit in limits],
            [(far < -limit).sum() for limit in limits],
        )
    assert draws == 2**28
    mean = draws * stats.norm.sf(limits)
    for side in found:
        assert (stats.poisson.cdf(side, mean) > LEAST).all()
        assert (stats.poisson.sf(side - 1, mean) > LEAST).all()


PAIRS = {
    "two elements of one pair": lambda z: (z[:, 0::2], z[:, 1::2]),
    "two elements of one block": lambda z: (z[:, 0::4], z[:, 2::4]),
    "two blocks": lambda z: (z[:, :-4], z[:, 4:]),
    "two rows of an image": lambda z: (z[:, :-64], z[:, 64:]),
    "two samples": lambda z: (z[:-1], z[1:]),
    "two samples in batches of 256": lambda z: (z[:256], z[256:]),
}
OTHERS = {
    "two images": {"image": 1},
    "two distant images": {"image": 2**31},
    "two distant samples": {"sample": 2**32},
    "two neighbouring seeds": {"seed": 20_200_104},
    "two seeds that differ in the high word": {"seed": 20_200_103 + 2**32},
    "the two streams": {"stream": 0},
}


@pytest.mark.parametrize("what", [*PAIRS, *OTHERS])
def test_there_is_no_dependence_between(what):
    z = normals(512, 4096)
    a, b = PAIRS[what](z) if what in PAIRS else (z, normals(512, 4096, **OTHERS[what]))
    a, b = special.ndtr(a.ravel()), special.ndtr(b.ravel())
    cells = (a * 64).astype(np.int64) * 64 + (b * 64).astype(np.int64)
    assert chi_square(np.bincount(np.minimum(cells, 4095), minlength=4096), 4096) > LEAST
    correlation = np.corrcoef(a, b)[0, 1] * np.sqrt(a.size)
    assert 2 * stats.norm.sf(abs(correlation)) > LEAST
