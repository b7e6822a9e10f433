"""Make clopper_pearson.npz: Clopper-Pearson bounds from 300-bit interval arithmetic.

Run from the repository root: ``python -m tests.data.make_clopper_pearson`` (minutes on one core).
Each row holds k, n, alpha, the largest float proved at most the exact lower bound of k, and the
smallest float proved at least the exact upper bound of n - k. Only the guesses from which interval
Newton starts come from the library; a wrong guess proves nothing, and raises.
"""

from itertools import product
from pathlib import Path

import numpy as np
from flint import arb
from tqdm import tqdm

from tcertify.bounds import clopper_pearson_lower, clopper_pearson_lower_complement
from tests.intervals import clopper_pearson_root, float_above, float_below

ALPHAS = [1e-12, 1e-9, 1e-6, 1e-4, 1e-3, 0.01, 0.05, 0.25, 0.5]
SIZES = [*range(1, 6), 7, 10, 20, 50, 100, 200, 500, *(10**e for e in range(3, 10))]
RANDOM_ROWS = 8_000
HARD_ROWS = 400  # alpha from 1e-60 to 1 - 1e-6, n up to 2**33


def main():
    rng = np.random.default_rng(20_240_501)
    rows = [*grid_rows(), *random_rows(rng), *hard_rows(rng)]
    exact = [exact_bounds(*row) for row in tqdm(rows)]
    k, n, alpha = zip(*rows, strict=True)
    lower, upper = zip(*exact, strict=True)
    np.savez_compressed(
        Path(__file__).with_name("clopper_pearson.npz"),
        k=np.array(k, dtype=np.int64),
        n=np.array(n, dtype=np.int64),
        alpha=np.array(alpha),
        lower=np.array(lower),
        upper=np.array(upper),
    )


def exact_bounds(k, n, alpha):
    guess = arb(float(clopper_pearson_lower(k, n, alpha)))
    if guess > 0.5:
        guess = 1 - arb(float(clopper_pearson_lower_complement(k, n, alpha)))
    root = clopper_pearson_root(k, n, alpha, guess)
    return float_below(root), float_above(1 - root)


def grid_rows():
    for n in SIZES:
        near_ends = {1, 2, 3, 5, 10, 30, n // 100, n // 10, n // 4, n // 2}
        near_ends |= {n + 1 - k for k in near_ends}
        yield from product([k for k in sorted(near_ends) if 1 <= k <= n], [n], ALPHAS)


def random_rows(rng):
    for _ in range(RANDOM_ROWS):
        n = int(10 ** rng.uniform(0, 9))
        yield any_count(rng, n), n, float(10 ** rng.uniform(-12, np.log10(0.5)))


def hard_rows(rng):
    for _ in range(HARD_ROWS):
        n = int(2 ** rng.uniform(4, 33))
        small = 10 ** rng.uniform(-60, -6)
        yield any_count(rng, n), n, float(rng.choice([small, rng.uniform(0.01, 0.99), 1 - 1e-6]))


def any_count(rng, n):
    """A count from 1 to n: anywhere, or at a log-uniform distance from either end."""
    near = int(n ** rng.uniform(0, 1))
    return int(rng.choice([rng.integers(1, n + 1), near, n + 1 - near]))


if __name__ == "__main__":
    main()
