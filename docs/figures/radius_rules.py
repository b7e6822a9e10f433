"""Draw radius_rules.png: three radius rules, as functions of p_A and p_B.

Run from the repository root: ``python docs/figures/radius_rules.py``.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tcertify.radius import l2_radius_lower
from tcertify.statistics.comparison import lecuyer_radius, li_radius

RULES = {
    "Cohen et al. 2019 (tight)": l2_radius_lower,
    "Li et al. 2018 (Rényi)": li_radius,
    "Lecuyer et al. 2018 (differential privacy)": lecuyer_radius,
}


def main() -> None:
    """Draw the figure."""
    p_a = np.linspace(0.501, 0.999, 250)
    rivals = {
        "two classes, p_B = 1 - p_A": 1 - p_a,
        "many classes, p_B = (1 - p_A) / 10": (1 - p_a) / 10,
    }
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    for axes, (title, p_b) in zip(figure.subplots(1, 2, sharey=True), rivals.items(), strict=True):
        for label, rule in RULES.items():
            axes.plot(p_a, rule(p_a, p_b, 1.0), label=label)
        axes.set(xlabel="p_A", title=title, xlim=(0.5, 1), ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("certified l2 radius / sigma")
    figure.axes[0].legend()
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    main()
