"""Print how often certificates from Sison-Glaz intervals are wrong, by enumeration.

Run from the repository root: ``python docs/figures/sison_glaz.py`` (ten seconds). Three classes;
for each n and alpha, the worst failure probability over a grid of true probabilities, of covering
all three and of the radius from the intervals of the first class and the others.
"""

from itertools import product
from math import factorial, prod

import numpy as np
from scipy.special import ndtri

from tcertify.statistics.comparison import sison_glaz_intervals


def main() -> None:
    """Print the table."""
    print("| n | alpha | intervals miss | radius too large | at (p_A, p_B, rest) |")
    print("|---|---|---|---|---|")
    for n, alpha in product((5, 10, 20), (0.05, 0.001)):
        missed, wrong, at = worst_failures(n, alpha)
        where = ", ".join(f"{p:.2f}" for p in at)
        print(f"| {n} | {alpha} | {missed:.3f} | {wrong:.3f} | {where} |")


def worst_failures(n: int, alpha: float) -> tuple[float, float, tuple[float, ...]]:
    """Worst failure of the intervals, worst failure of the radius, and where that is."""
    outcomes = [(a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)]
    lower, upper = np.swapaxes([sison_glaz_intervals(row, alpha) for row in outcomes], 0, 1)
    claimed = ndtri(np.clip(lower[:, 0], 0, 1)) - ndtri(np.clip(upper[:, 1:].max(1), 0, 1))
    ways = [factorial(n) // prod(map(factorial, row)) for row in outcomes]
    missed, wrong = 0.0, (0.0, (0.0, 0.0, 0.0))
    for a, b in product(range(2, 99, 2), range(1, 99)):
        if a + b < 100:
            p = (a / 100, b / 100, (100 - a - b) / 100)
            mass = np.array(ways) * np.prod(np.array(p) ** outcomes, axis=1)
            outside = ((lower > np.array(p) + 1e-12) | (upper < np.array(p) - 1e-12)).any(axis=1)
            missed = max(missed, mass[outside].sum())
            too_large = claimed > ndtri(p[0]) - ndtri(max(p[1:])) + 1e-9
            wrong = max(wrong, (mass[too_large].sum(), p))
    return missed, *wrong


if __name__ == "__main__":
    main()
