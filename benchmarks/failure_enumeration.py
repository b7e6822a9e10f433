"""The worst failure probability of each method over all (p_A, p_B), by enumeration of all outcomes.

`met` was met at some (p_A, p_B), and none exceeds `bound`: see `worst_failure`. Run
`python -m benchmarks.failure_enumeration` from the root of the repository: it takes about four
minutes on one core and writes benchmarks/results/failure_enumeration.tsv and
docs/figures/failure_enumeration.png.
"""

import csv

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import ndtri
from tqdm import tqdm

from benchmarks import ROOT, parser_of
from tcertify.bounds import clopper_pearson_lower, clopper_pearson_upper, joint_lower
from tests.reference import outcomes, worst_failure

TABLE = ROOT / "benchmarks/results/failure_enumeration.tsv"
PICTURE = ROOT / "docs/figures/failure_enumeration.png"
SAMPLES = range(1, 61)
ALPHAS = (0.5, 0.1, 0.05, 0.01, 1e-3, 1e-5)


def certify(k_a, k_b, n, alpha):
    """Lower bounds of t by CERTIFY; -inf where it abstains."""
    p_a = clopper_pearson_lower(k_a, n, alpha)
    return difference(p_a, 1 - p_a)


def t_certify(k_a, k_b, n, alpha):
    """T-CERTIFY over alpha' = 0.1 alpha .. 1.0 alpha, with the one-class bound of p_B."""
    return np.maximum(capped(k_a, k_b, n, alpha), certify(k_a, k_b, n, alpha))


def capped(k_a, k_b, n, alpha):
    """The same without alpha' = alpha, p_B still capped by 1 - p_A."""
    p_a, p_b = split(k_a, k_b, n, alpha)
    return difference(p_a, np.minimum(p_b, 1 - p_a)).max(axis=0)


def uncapped(k_a, k_b, n, alpha):
    """The same without the cap."""
    return difference(*split(k_a, k_b, n, alpha)).max(axis=0)


def split(k_a, k_b, n, alpha):
    """Bounds of p_A and p_B over alpha' = 0.1 alpha .. 0.9 alpha."""
    share = np.arange(1, 10)[:, None] / 10
    p_a = clopper_pearson_lower(k_a, n, share * alpha)
    return p_a, clopper_pearson_upper(k_b, n, (1 - share) * alpha)


def difference(p_a, p_b):
    """Phi^-1(p_A) - Phi^-1(p_B); -inf unless p_A > 1/2."""
    with np.errstate(invalid="ignore"):
        return np.where(p_a > 0.5, ndtri(p_a) - ndtri(p_b), -np.inf)


METHODS = {
    "CERTIFY": certify,
    "T-CERTIFY": t_certify,
    "T-CERTIFY without alpha' = alpha": capped,
    "T-CERTIFY without alpha' = alpha and cap": uncapped,
    "joint": joint_lower,
}


def main():
    """Enumerate, write the table, draw the picture."""
    parser_of(__doc__).parse_args()
    rows = []
    for alpha in ALPHAS:
        for n in tqdm(SAMPLES, desc=f"alpha = {alpha}"):
            for name, method in METHODS.items():
                # the joint bound spends nearly all of alpha along whole curves
                tolerance = 1e-4 if name == "joint" else 1e-6
                worst = worst_failure(method(*outcomes(n), n, alpha), n, tolerance=tolerance)
                shares = worst.met / alpha, worst.bound / alpha
                rows.append((name, alpha, n, *shares, worst.z_a, worst.t))
    with TABLE.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(("method", "alpha", "n", "met/alpha", "bound/alpha", "z_a", "t"))
        writer.writerows((*row[:3], *(f"{value:.12g}" for value in row[3:])) for row in rows)
    draw(rows)
    for name in METHODS:
        for column, what in ((3, "met"), (4, "bound")):
            worst = [max(r[column] for r in rows if r[:2] == (name, alpha)) for alpha in ALPHAS]
            print(f"{name:42} {what:6}", *(f"{ratio:.6f}" for ratio in worst))


def draw(rows):
    """One panel per alpha: the worst failure met, in units of alpha, against n."""
    figure, panels = plt.subplots(2, 3, figsize=(11, 6), sharex=True, sharey=True)
    for panel, alpha in zip(panels.flat, ALPHAS, strict=True):
        for name, marker in zip(METHODS, "sxv^.", strict=True):
            line = [(n, met) for m, a, n, met, *_ in rows if (m, a) == (name, alpha)]
            panel.plot(*zip(*line, strict=True), marker, markersize=4, label=name)
        panel.axhline(1, color="black", linewidth=0.8)
        panel.set_title(f"alpha = {alpha:g}")
    for panel in panels[1]:
        panel.set_xlabel("n")
    for panel in panels[:, 0]:
        panel.set_ylabel("worst failure / alpha")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="lower center", ncols=3)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    figure.savefig(PICTURE, dpi=120)


if __name__ == "__main__":
    main()
