"""Pictures of certification runs."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike

import numpy as np
from numpy.typing import ArrayLike


def plot_certified_accuracy(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], path: str | PathLike[str], *, title: str
) -> None:
    """Write the picture of certified accuracy by l2 radius, one labelled curve a run.

    Parameters
    ----------
    curves : mapping from label to (radius, correct)
        For each run the radii (M,) of its images and whether each prediction was right (M,).
    path : path
        Where to write; the ending names the format (.png, .pdf, .svg).
    title : str
        Names the classifier, the data and the noise.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'Pictures need matplotlib: pip install "tcertify[plots]".'
        ) from None
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for label, (radius, correct) in curves.items():
        # The curve falls by one image at each certified radius: exact, with no grid of radii.
        certified = np.sort(np.asarray(radius)[np.asarray(correct, dtype=bool)])
        accuracy = (len(certified) - np.arange(len(certified) + 1)) / np.size(correct)
        axes.step(np.concatenate([[0.0], certified]), accuracy, where="post", label=label)
    axes.set(
        xlabel="l2 radius",
        ylabel="certified accuracy",
        title=title,
        ylim=(0, 1),
    )
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
