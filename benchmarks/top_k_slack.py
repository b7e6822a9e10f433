"""How far top-k radii lie below those of the true probabilities, ours and Jia et al.'s.

Run `python -m benchmarks.top_k_slack` from the root of the repository: it takes seconds and writes
benchmarks/results/top_k_slack.tsv. The counts are the expected ones. The rest of the mass is
spread over the classes that are left, evenly.
"""

import csv
from pathlib import Path

import numpy as np

from benchmarks import parser_of
from tcertify.statistics import certify_top_k, jia_top_k_radius
from tcertify.statistics.top_k import top_k_radius_lower
from tcertify.votes import Votes

TABLE = Path(__file__).parent / "results/top_k_slack.tsv"
ALPHA = 0.001
# classes, k, p_A, the largest others
CASES = (
    (10, 3, 0.5, (0.2, 0.1, 0.1, 0.05)),
    (10, 3, 0.2, (0.4, 0.15, 0.1, 0.05)),
    (1000, 5, 0.3, (0.2, 0.1, 0.05, 0.05, 0.03, 0.02)),
    (1000, 5, 0.6, (0.1, 0.05, 0.02, 0.01, 0.01)),
    (1000, 5, 0.1, (0.3, 0.2, 0.1, 0.05, 0.02, 0.02)),
)


def limit(p, k):
    """The radius of the probabilities themselves, class 0 being certified; sigma 1."""
    masses = np.minimum(np.sort(p[1:])[-k:].cumsum(), 1 - p[0])
    return float(top_k_radius_lower(p[0], 1 - p[0], masses, np.arange(1, k + 1), 1.0))


def main():
    """Compute, print and write the table."""
    parser_of(__doc__).parse_args()
    rows = []
    for classes, k, p_a, others in CASES:
        rest = classes - 1 - len(others)
        p = np.array([p_a, *others, *[(1 - p_a - sum(others)) / rest] * rest])
        exact = limit(p, k)
        for n in (1_000, 10_000, 100_000):
            counts = np.round(p * n).astype(np.int64)
            votes = Votes.of([counts], [0], [max(n - int(counts.sum()), 0)])
            ours = exact - float(certify_top_k(votes, k, sigma=1.0, alpha=ALPHA).radius[0])
            theirs = exact - float(jia_top_k_radius(votes, k, sigma=1.0, alpha=ALPHA)[0])
            rows.append((classes, k, p_a, n, exact, theirs, ours, ours / theirs))
    with TABLE.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(
            ("classes", "k", "p_A", "n", "radius", "slack, Jia et al.", "slack", "ratio")
        )
        writer.writerows((*row[:4], *(f"{value:.4g}" for value in row[4:])) for row in rows)
    print(TABLE.read_text(), end="")


if __name__ == "__main__":
    main()
