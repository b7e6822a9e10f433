"""Pictures of certified accuracy over radius, fit for print."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tcertify.report.pairs import compare_results
from tcertify.report.results import Result
from tcertify.report.tables import check_radii_known
from tcertify.statistics.curves import certified_accuracy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tcertify.statistics.alphas import AlphaCurve

#: Okabe and Ito's colours, which the colour-blind tell apart, ordered so that neighbours differ in
#: grey as well; dashes tell apart what is printed without colour.
_COLOURS = ("#000000", "#D55E00", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
_DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
_MARKERS = "os^Dv"

#: Inches: the widths of one and of both columns of a page with two.
SIZES = {"one": (3.35, 2.5), "two": (6.9, 3.6)}

SUFFIXES = (".png", ".pdf", ".svg")

#: So that the same results give the same file.
_METADATA = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}

_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "svg.hashsalt": "tcertify",
    "pdf.fonttype": 42,  # letters stay letters: journals refuse Type 3
}


def plot_certified_accuracy(
    results: Sequence[Result],
    path: str | os.PathLike[str],
    *,
    title: str = "",
    gain: bool = False,
    column: str = "two",
    alpha: float = 0.05,
) -> None:
    """Draw certified accuracy over radius, one curve for each result with its confidence band.

    The curve falls at each certified radius, without a grid of radii between. The band is that of
    `certified_accuracy`, over images and radius by radius. A run that stopped early is drawn at the
    radii that it decided, as points with intervals. The file appears under its name only when it
    is complete, and the same results give the same file.

    Parameters
    ----------
    results : sequence of Result
        At least one; see `read_results`.
    path : path
        Where to write; the ending names the format: .png, .pdf or .svg.
    title : str
        Nothing by default: in print, the caption says it.
    gain : bool
        Draw instead what each result gains over the first on the same images, with the interval of
        `certified_gain`.
    column : {"one", "two"}
        Width of one column of a page with two, or of both.
    alpha : float
        Two-sided failure probability of the bands, in (0, 1).

    Raises
    ------
    ValueError
        No result, another ending or column, or `gain` of a single result or of other images.
    ModuleNotFoundError
        Without matplotlib, with the line that installs it.
    OSError
        The file cannot be written.
    """
    if len(results) < 1 + gain:
        raise ValueError(f"`results` must hold at least {1 + gain}, got {len(results)}.")
    with _picture(path, column) as axes:
        for place, result in enumerate(results):
            if not gain:
                _draw_curve(axes, result, _style(place), alpha)
            elif place:
                _draw_gain(axes, results[0], result, _style(place), alpha)
        axes.set(xlabel=r"$\ell_2$ radius", title=title)
        axes.set_ylabel(f"gain over {results[0].name}" if gain else "certified accuracy")
        axes.set_xlim(left=0)
        if gain:
            axes.axhline(0, color="black", linewidth=0.6)
        else:
            axes.set_ylim(0, 1)


def plot_alpha_curve(
    curve: AlphaCurve, path: str | os.PathLike[str], *, title: str = "", column: str = "two"
) -> None:
    """Draw certified accuracy at each radius, and the average certified radius, over alpha.

    A curve that is flat says that the table does not rest on a lenient alpha. The file appears
    under its name only when it is complete, and the same curve gives the same file.

    Parameters
    ----------
    curve : AlphaCurve
        See `alpha_curve`.
    path, title, column
        As for `plot_certified_accuracy`.

    Raises
    ------
    ValueError, ModuleNotFoundError, OSError
        As `plot_certified_accuracy`.
    """
    with _picture(path, column) as axes:
        shown = [
            *zip([f"at radius {r:g}" for r in curve.radii], curve.certified_accuracy.T, strict=True)
        ]
        for place, (name, accuracy) in enumerate(shown, start=1):
            axes.plot(curve.alpha, accuracy, label=name, markersize=3, **_style(place))
        acr = curve.average_certified_radius
        axes.plot(curve.alpha, acr, label="ACR", markersize=3, **_style(0))
        axes.set_xscale("log")
        axes.invert_xaxis()  # the strictest to the right
        axes.set(xlabel=r"$\alpha$", title=title, ylabel="certified accuracy; ACR")
        axes.set_ylim(0, max(1.0, 1.05 * float(acr.max())))
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))  # curves may be anywhere


def check_matplotlib() -> None:
    """Raise `ModuleNotFoundError` where matplotlib is missing, with the line that installs it."""
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError("Pictures need matplotlib: pip install matplotlib.")


@contextmanager
def _picture(path: str | os.PathLike[str], column: str) -> Iterator[Axes]:
    """Yield axes in the house's style, and write them to the path at the end."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"`path` must end in {', '.join(SUFFIXES)}, got {os.fspath(path)!r}.")
    if column not in SIZES:
        raise ValueError(f"`column` must be one of {', '.join(SIZES)}, got {column!r}.")
    check_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=SIZES[column], layout="constrained")
        axes = figure.subplots()
        yield axes
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend() is None:
            axes.legend()
        _save(figure, Path(path), suffix)


def _save(figure: Any, path: Path, suffix: str) -> None:
    from tcertify._files import complete

    with complete(path) as partial:
        figure.savefig(partial, format=suffix[1:], dpi=300, metadata=_METADATA[suffix])


def _style(place: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[place % len(_COLOURS)],
        "linestyle": _DASHES[place % len(_DASHES)],
        "marker": _MARKERS[place % len(_MARKERS)],
    }


def _draw_curve(axes: Axes, result: Result, style: dict[str, Any], alpha: float) -> None:
    radii = curve_radii(result)
    curve = certified_accuracy(result.radius, result.correct, radii, alpha=alpha)
    values = (curve.share, curve.lower, curve.upper)
    _draw(axes, result.name, radii, values, style, in_points=result.radii is not None)


def _draw_gain(
    axes: Axes, first: Result, second: Result, style: dict[str, Any], alpha: float
) -> None:
    in_points = first.radii is not None or second.radii is not None
    join = np.intersect1d if in_points else np.union1d
    radii = join(curve_radii(first), curve_radii(second))
    gain = compare_results(first, second, radii, alpha=alpha).gain
    values = (gain.share, gain.lower, gain.upper)
    _draw(axes, second.name, radii, values, style, in_points=in_points)


def curve_radii(result: Result) -> NDArray[np.float64]:
    """Return the radii at which the curve may fall, and 0, and one just beyond the last; or those
    that the run decided.
    """
    check_radii_known(result)
    if result.radii is not None:
        return np.array(result.radii)
    radii = np.unique(np.append(result.radius[result.correct], 0.0))
    return np.append(radii, np.nextafter(radii[-1], np.inf))


def _draw(
    axes: Axes,
    name: str,
    radii: NDArray[np.float64],
    values: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    style: dict[str, Any],
    *,
    in_points: bool,
) -> None:
    """Draw a curve with its band. An image counts up to its radius: steps go before the fall."""
    share, lower, upper = values
    colour = style["color"]
    if in_points:
        whiskers = np.maximum([share - lower, upper - share], 0)
        axes.errorbar(
            radii,
            share,
            yerr=whiskers,
            color=colour,
            linestyle="",
            marker=style["marker"],
            markersize=3.5,
            capsize=2,
            elinewidth=0.8,
            label=name,
        )
        return
    axes.fill_between(radii, lower, upper, step="pre", color=colour, alpha=0.1, linewidth=0)
    for edge in (lower, upper):  # bands that overlap keep their own edges
        axes.step(radii, edge, where="pre", color=colour, linewidth=0.4, alpha=0.6)
    axes.step(
        radii, share, where="pre", color=colour, linestyle=style["linestyle"], label=name, zorder=3
    )
