"""plot_certified_accuracy: a readable picture of the exact curve."""

import numpy as np
from matplotlib.figure import Figure

from tcertify.report.plots import plot_certified_accuracy


def test_the_curve_is_exact_and_the_picture_is_written(tmp_path, monkeypatch):
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: (drawn.append(f), save(f, *a, **k)))
    radius, correct = [0.5, 0.0, 1.0, 0.7], [True, False, True, False]
    path = tmp_path / "curve.png"
    plot_certified_accuracy({"joint": (radius, correct)}, path, title="digits")
    assert path.read_bytes().startswith(b"\x89PNG")
    (axes,) = drawn[0].axes
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [0.0, 0.5, 1.0]
    assert line.get_ydata().tolist() == [0.5, 0.25, 0.0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("l2 radius", "certified accuracy")
    assert axes.get_legend().get_texts()[0].get_text() == "joint"


def test_a_run_that_certifies_nothing_is_drawn(tmp_path):
    curves = {"certify": (np.zeros(3), np.zeros(3, bool))}
    plot_certified_accuracy(curves, tmp_path / "empty.svg", title="nothing")
    assert b"<svg" in (tmp_path / "empty.svg").read_bytes()
