"""What noise that is not exactly Gaussian does to alpha, by exact binomial sums.

The theorem speaks of Gaussian noise. If the noise of one sample is within tau of it in total
variation, each class probability may be off by tau, for all n samples alike. CERTIFY's bound from
k of n votes is the p_A at which k or more votes have probability alpha; a classifier whose p_A is
just that, and p_A + tau under the noise that is drawn, makes it fail with the probability printed.
At unanimous votes that is about alpha * exp(n tau), and nothing is left once p_A + tau reaches 1.
The rows "as drawn" are what a certificate states: the tail as it is, of 64 bits, and the bend by
its Renyi divergence over all n samples, which for many samples allows less than n times tau.

Run `python -m benchmarks.noise_assumption` from the root of the repository: it takes a second and
writes benchmarks/results/noise_assumption.tsv.
"""

import csv
import math
from pathlib import Path

import numpy as np
from scipy.stats import binom

from benchmarks import parser_of
from tcertify.bounds import clopper_pearson_lower, clopper_pearson_lower_complement
from tcertify.bounds.charge import BEND
from tcertify.sampling import GaussianNoise

TABLE = Path(__file__).parent / "results/noise_assumption.tsv"
ALPHAS = (1e-3, 1e-12)
SAMPLES = (10**4, 10**5, 10**6)
SIZES = {"digits": 64, "CIFAR-10": 3072, "ImageNet": 150_528}


def lost_tail(size, bits=32):
    """Total variation of a radius made from so many bits: the mass beyond its largest value."""
    return size / 2 * 2.0 ** -(bits + 1)


def bend(size):
    """About the most that the total variation which the polynomials cost can be, by Pinsker's
    inequality. `BEND` bounds the root mean square bend of a pair: `kernels/fit_normal.py`.
    """
    return math.sqrt(size / 2) * BEND / 2


def failure(k, n, alpha, tau):
    """P(Bin(n, p_A + tau) >= k) where P(Bin(n, p_A) >= k) = alpha."""
    if k < n:
        return float(binom.sf(k - 1, n, min(clopper_pearson_lower(k, n, alpha) + tau, 1.0)))
    rest = float(clopper_pearson_lower_complement(n, n, alpha)) - tau
    return math.exp(n * math.log1p(-rest)) if rest > 0 else 1.0


NOISES = {
    "tail of a 32-bit radius": lost_tail,
    "bend": bend,
    "tail and bend": lambda size: lost_tail(size) + bend(size),
    "tail of a 64-bit radius": lambda size: lost_tail(size, 64),
}


def main():
    """Compute, print and write the table."""
    parser_of(__doc__).parse_args()
    rows = []
    for alpha in ALPHAS:
        for image, size in SIZES.items():
            for noise, variation in NOISES.items():
                for n in SAMPLES:
                    tau = variation(size)
                    worst = [failure(k, n, alpha, tau) / alpha for k in (n, round(0.99 * n))]
                    rows.append((alpha, image, noise, n, tau, n * tau, *worst))
            for n in SAMPLES:  # which holds for all votes
                owed = GaussianNoise(1.0).n_tau(n, size, alpha)
                rows.append((alpha, image, "as drawn", n, owed / n, owed, *[math.exp(owed)] * 2))
    with TABLE.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        head = ("tau", "n tau", "failure/alpha, unanimous", "failure/alpha, 99 of 100 votes")
        writer.writerow(("alpha", "image", "noise", "n", *head))
        writer.writerows((*row[:4], *(f"{value:.4g}" for value in row[4:])) for row in rows)
    print(TABLE.read_text(), end="")


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
