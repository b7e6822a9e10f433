"""Pictures: the exact curve with its band, in a file fit for print."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from tcertify.bounds import clopper_pearson_upper
from tcertify.report import Result, plot_alpha_curve, plot_certified_accuracy
from tcertify.statistics import AlphaCurve


def result(name="joint", radius=(0.5, 0.0, 1.0, 0.7), predicted=(1, -1, 1, 0), **others):
    ids = np.arange(len(radius))
    return Result(name, ids, np.ones_like(ids), np.array(predicted), np.array(radius), **others)


def curves(drawn):
    """The curves of a picture, without the edges of their bands."""
    return [line for line in drawn[0].lines if not line.get_label().startswith("_")]


@pytest.fixture
def drawn(monkeypatch):
    """The axes of the pictures that were written."""
    axes, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda f, *a, **k: (axes.extend(f.axes), save(f, *a, **k))
    )
    return axes


def test_the_curve_falls_at_each_certified_radius(tmp_path, drawn):
    path = tmp_path / "curve.png"
    plot_certified_accuracy([result()], path, title="digits")
    assert path.read_bytes().startswith(b"\x89PNG")
    (line,) = curves(drawn)
    radii, accuracy = line.get_data()
    assert radii.tolist() == [0.0, 0.5, 1.0, np.nextafter(1, 2)]
    assert accuracy.tolist() == [0.5, 0.5, 0.25, 0.0]
    assert line.get_drawstyle() == "steps-pre"
    assert drawn[0].get_ylabel() == "certified accuracy"
    assert drawn[0].get_title() == "digits"
    assert drawn[0].get_legend().get_texts()[0].get_text() == "joint"


def test_the_band_is_the_exact_interval(tmp_path, drawn):
    plot_certified_accuracy([result()], tmp_path / "band.svg")
    (band,) = drawn[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(clopper_pearson_upper(2, 4, 0.025))


def test_curves_differ_in_colour_and_in_dashes(tmp_path, drawn):
    plot_certified_accuracy([result(str(i)) for i in range(5)], tmp_path / "five.pdf")
    looks = [(line.get_color(), line._dash_pattern[1]) for line in curves(drawn)]
    assert len({colour for colour, _ in looks}) == 5
    assert len({str(dashes) for _, dashes in looks}) == 5


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_the_same_results_give_the_same_file(tmp_path, suffix):
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        plot_certified_accuracy([result()], path, column="one")
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_run_that_certifies_nothing_is_drawn(tmp_path, drawn):
    plot_certified_accuracy([result(radius=(0.0,), predicted=(-1,))], tmp_path / "empty.svg")
    assert curves(drawn)[0].get_ydata().tolist() == [0, 0]


def test_a_run_that_stopped_early_is_drawn_in_points(tmp_path, drawn):
    early = result(stopped_early=True, radii=(0.0, 0.5))
    plot_certified_accuracy([early], tmp_path / "early.png")
    assert drawn[0].lines[0].get_xdata().tolist() == [0.0, 0.5]
    assert drawn[0].lines[0].get_linestyle() == "None"
    with pytest.raises(ValueError, match="give them, or the run file"):
        plot_certified_accuracy([result(stopped_early=True)], tmp_path / "early.png")


def test_the_gain_is_that_over_the_first(tmp_path, drawn):
    better = result("better", radius=(0.6, 0.2, 1.0, 0.7), predicted=(1, 1, 1, 0))
    plot_certified_accuracy([result(), better], tmp_path / "gain.png", gain=True)
    (line,) = curves(drawn)
    gain = dict(zip(*(values.tolist() for values in line.get_data()), strict=True))
    assert (gain[0.2], gain[0.5], gain[0.6], gain[1.0]) == (0.25, 0.0, 0.25, 0.0)
    assert drawn[0].get_ylabel() == "gain over joint"


@pytest.mark.parametrize(
    ("results", "name", "options", "message"),
    [
        ([], "a.png", {}, "at least 1"),
        ([result()], "a.png", {"gain": True}, "at least 2"),
        ([result()], "a.jpeg", {}, r"must end in \.png, \.pdf, \.svg"),
        ([result()], "a.png", {"column": "three"}, "must be one of one, two"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, results, name, options, message):
    with pytest.raises(ValueError, match=message):
        plot_certified_accuracy(results, tmp_path / name, **options)


def test_accuracy_and_acr_are_drawn_over_alpha_the_strictest_to_the_right(tmp_path, drawn):
    curve = AlphaCurve(
        np.array([0.1, 0.001]), np.array([0.5, 0.4]), np.array([0.0, 0.5]), np.eye(2)
    )
    plot_alpha_curve(curve, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
    (axes,) = drawn
    lines = {line.get_label(): line.get_ydata().tolist() for line in axes.get_lines()}
    assert lines == {"at radius 0": [1, 0], "at radius 0.5": [0, 1], "ACR": [0.5, 0.4]}
    assert axes.xaxis_inverted()
    with pytest.raises(ValueError, match="`path` must end in"):
        plot_alpha_curve(curve, tmp_path / "a.txt")
