"""How far each bound lies below t at the expected counts, and what the joint one costs.

Run `python -m benchmarks.joint_slack` from the root of the repository: it takes a minute and
writes benchmarks/results/joint_slack.tsv.
"""

import csv
import time
from pathlib import Path

import numpy as np
from scipy.special import ndtri

from benchmarks import parser_of
from benchmarks.failure_enumeration import certify, t_certify
from benchmarks.test_joint import limit_of_slack
from tcertify.bounds import joint_lower

TABLE = Path(__file__).parent / "results/joint_slack.tsv"
ALPHA = 0.001
ROWS = (
    (10**5, 0.6, 0.3),
    (10**5, 0.5, 0.05),
    (10**5, 0.8, 0.1),
    (10**5, 0.4, 0.2),
    (10**5, 0.99, 0.005),
    (10**5, 0.7, 0.3),
    (10**5, 0.9, 0.001),
    (10**4, 0.5, 0.05),
    (10**3, 0.5, 0.05),
    (10**3, 0.95, 0.01),
    (10**6, 0.6, 0.3),
    (10**9, 0.6, 0.3),
    (10**6, 0.6, 0.4),
    (10**7, 0.6, 0.4),
    (10**8, 0.6, 0.4),
    (10**9, 0.6, 0.4),
)


def main():
    """Compute, print and write the table."""
    parser_of(__doc__).parse_args()
    joint_lower(5, 1, 10, ALPHA)  # compiles
    rows = []
    for n, p_a, p_b in ROWS:
        k_a, k_b = np.array([round(n * p_a)]), np.array([round(n * p_b)])
        start = time.process_time()
        joint = joint_lower(k_a, k_b, n, ALPHA)
        milliseconds = 1000 * (time.process_time() - start)
        bounds = certify(k_a, k_b, n, ALPHA), t_certify(k_a, k_b, n, ALPHA), joint
        slack = [ndtri(p_a) - ndtri(p_b) - bound.item() for bound in bounds]
        limit = limit_of_slack(p_a, p_b, n, ALPHA)
        rows.append((n, p_a, p_b, limit, *slack, slack[-1] / limit, milliseconds))
    with TABLE.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        head = ("limit", "CERTIFY", "T-CERTIFY", "joint", "joint/limit", "CPU milliseconds")
        writer.writerow(("n", "p_a", "p_b", *head))
        writer.writerows((*row[:3], *(f"{value:.4g}" for value in row[3:])) for row in rows)
    print(TABLE.read_text(), end="")


if __name__ == "__main__":
    main()
