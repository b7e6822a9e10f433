"""One page for people who would rather look: a run as a self-contained HTML file."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from tcertify.errors import RunFileError
from tcertify.report.gallery import gallery
from tcertify.report.plots import curve_radii
from tcertify.report.results import Result
from tcertify.runs.table import RunTable, read_run
from tcertify.statistics.curves import certified_accuracy

if TYPE_CHECKING:
    from tcertify.data.dataset import Dataset

#: Colours that can be seen on white and on black, by the colour-blind too.
_BLUE, _ORANGE, _GREY = "#3388CC", "#E69F00", "#808080"

#: Of each setting, this many characters are shown.
_MOST_TEXT = 120

_STYLE = """
:host { font-family: system-ui, sans-serif; line-height: 1.45; font-size: 15px }
h1 { font-size: 1.4rem; margin: .4rem 0 } h2 { font-size: 1.1rem; margin: 1rem 0 .2rem }
p { margin: .4rem 0 }
code { background: rgba(127,127,127,.18); padding: 0 .25em; overflow-wrap: anywhere }
td { padding: 0 .8em 0 0; vertical-align: top; overflow-wrap: anywhere }
"""

_TEMPLATE = """
{% block postamble %}
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<style>
html { color-scheme: light dark }
body { margin: 0 auto; max-width: 1000px; padding: .5rem; background: Canvas; color: CanvasText }
</style>
{% endblock %}
"""


def write_page(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    dataset: Dataset | None = None,
    class_names: Iterable[str] | None = None,
) -> None:
    """Write a run as one HTML page that needs no network: its curve, its images, its guarantee.

    The page shows certified accuracy over the radius with its band at 95 %, the lower bounds of
    p_A, and a table of all images that can be sorted and filtered; choosing a row opens the image,
    clean and under noise, with its votes. The file appears under its name only when it is complete.

    Parameters
    ----------
    run : path
        A run file of certificates.
    out : path
        The page to write.
    dataset : Dataset, optional
        The data set of the run, for its images. Without it the table has no pictures; nor has it
        for what is no picture of one or three channels.
    class_names : iterable of str, optional
        One for each class; without them ``dataset.classes``, else numbers.

    Raises
    ------
    RunFileError
        The run cannot be read, or holds no image yet.
    ValueError
        A run of predictions, another number of class names, or a data set that is not the run's.
    ModuleNotFoundError
        Bokeh or Pillow is not installed, with the line that installs them.
    """
    table = read_run(run)
    if not len(table):
        raise RunFileError(f"`{table.path}` holds no image yet.")
    if table.settings.predicts:
        raise ValueError(f"{table.path} holds predictions, and the page is for certificates.")
    page = _rendered(table, _names(table, dataset, class_names), dataset)
    from tcertify._files import complete

    with complete(out) as file:
        file.write(page.encode())


def _names(
    table: RunTable, dataset: Dataset | None, given: Iterable[str] | None
) -> tuple[str, ...]:
    """Return a name for each class."""
    classes = table.settings.num_classes
    known = getattr(dataset, "classes", ())
    named = known if len(known) == classes else range(classes)  # a network may be wider
    names = tuple(str(name) for name in (named if given is None else given))
    if len(names) != classes:
        raise ValueError(f"`class_names` must name {classes} classes, got {len(names)}.")
    return names


def _rendered(table: RunTable, names: tuple[str, ...], dataset: Dataset | None) -> str:
    try:
        from bokeh.embed import file_html
        from bokeh.layouts import column
        from bokeh.models.widgets import Div
        from bokeh.resources import INLINE
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "The page is made with Bokeh: pip install bokeh pillow."
        ) from None

    def text(content: str) -> Div:
        return Div(text=content, stylesheets=[_STYLE], sizing_mode="stretch_width")

    layout = column(
        text(_guarantee(table)),
        _curve(table),
        _distribution(table),
        *gallery(table, names, dataset, _STYLE),
        text(_check(table)),
        sizing_mode="stretch_width",
    )
    title = f"{table.path.name}: certified by tcertify"
    rendered: str = file_html(layout, INLINE, title, template=_TEMPLATE)
    return rendered


def _guarantee(table: RunTable) -> str:
    """Return the head of the page: what the run says, in words."""
    made, images = table.settings, len(table)
    certified = int((table.radius > 0).sum())
    right = int((table.correct & (table.radius > 0)).sum())
    failed = int(table.failed.sum())
    sentences = [
        f"{certified} of {images} images are certified, {right} of them with the right answer.",
        "A certificate says: the classifier, smoothed by noise of standard deviation"
        f" {made.sigma:g}, gives the same answer on every image that is nearer than the radius (l2"
        " norm, in pixel units). Each certificate is wrong with probability at most"
        f" {made.alpha:g}; of {images}, {made.alpha * images:.2g} may be expected to be.",
        "It does not say that the answer is right: the curve counts the images where it is.",
    ]
    if made.radii is not None:
        radii = ", ".join(f"{radius:g}" for radius in made.radii)
        sentences.append(
            f"Sampling of an image ended when the radii {radii} were decided: certified accuracy is"
            " that of the full run at these radii only, and a single radius may be smaller."
        )
    if made.claim:
        sentences.append(made.claim)
    if failed:
        sentences.append(f"{failed} images could not be certified, and count as wrong.")
    if table.part:
        sentences.append(f"This is not a whole run, but a {table.part}.")
    if table.missing:
        sentences.append(f"{table.missing} images are still to do.")
    paragraphs = "".join(f"<p>{sentence}</p>" for sentence in sentences)
    return f"<h1>{html.escape(table.path.name)}</h1>{paragraphs}"


def _figure(title: str, **options: Any) -> Any:
    from bokeh.models.annotations import Title
    from bokeh.plotting import figure

    plot = figure(
        title=Title(text=title, text_color=_GREY),
        height=280,
        sizing_mode="stretch_width",
        tools="pan,xwheel_zoom,box_zoom,reset,save",
        active_drag=None,  # a finger that scrolls the page must not move the picture
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_color=_GREY,
        **options,
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    for axis in (*plot.xaxis, *plot.yaxis):
        axis.update(
            axis_label_text_color=_GREY,
            axis_label_text_font_style="normal",
            major_label_text_color=_GREY,
            axis_line_color=_GREY,
            major_tick_line_color=_GREY,
            minor_tick_line_color=None,
        )
    plot.grid.grid_line_color, plot.grid.grid_line_alpha = _GREY, 0.25
    return plot


def _curve(table: RunTable) -> Any:
    """Certified accuracy over the radius: a curve, or points where a run decided some radii."""
    from bokeh.models import ColumnDataSource, HoverTool

    radii = curve_radii(Result.of_run(table))
    curve = certified_accuracy(table.radius, table.correct, radii)
    columns = {"radius": radii, "share": curve.share, "lower": curve.lower, "upper": curve.upper}
    source = ColumnDataSource({name: values.tolist() for name, values in columns.items()})
    plot = _figure(
        title="Certified accuracy, with 95 % band",
        x_axis_label="l2 radius",
        y_axis_label="certified accuracy",
        y_range=(0, 1),
        name="curve",
    )
    if table.stopped_early:
        plot.segment("radius", "lower", "radius", "upper", source=source, line_color=_BLUE)
        drawn = plot.scatter("radius", "share", source=source, size=7, color=_BLUE)
    else:
        band = {"source": source, "step_mode": "before", "fill_color": _BLUE, "fill_alpha": 0.2}
        plot.varea_step("radius", "lower", "upper", **band)
        drawn = plot.step(
            "radius", "share", source=source, mode="before", line_width=2, color=_BLUE
        )
    shown = [
        ("radius", "@radius{0.0000}"),
        ("certified accuracy", "@share{0.000}"),
        ("95 %", "@lower{0.000} to @upper{0.000}"),
    ]
    plot.x_range.start = 0
    plot.add_tools(HoverTool(renderers=[drawn], mode="vline", tooltips=shown))
    return plot


def _distribution(table: RunTable) -> Any:
    """How the lower bounds of p_A are spread over the images."""
    counts, edges = np.histogram(table.p_a_lower[~table.failed], bins=25, range=(0, 1))
    plot = _figure(
        title="Lower bounds of p_A",
        x_axis_label="the answer's probability under noise is at least",
        y_axis_label="images",
        x_range=(0, 1),
    )
    plot.quad(
        top=counts.tolist(),
        bottom=0,
        left=edges[:-1].tolist(),
        right=edges[1:].tolist(),
        color=_ORANGE,
        line_color=_GREY,
    )
    plot.y_range.start = 0
    return plot


def _check(table: RunTable) -> str:
    """Return how anybody can check the run, what it was warned of, and its settings."""
    path = html.escape(table.path.name)
    found = "".join(f"<li>{html.escape(text)}</li>" for text in (*table.warnings, *table.damage))
    values = {**table.parameters, **table.environment}
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(_short(value))}</td></tr>"
        for name, value in sorted(values.items())
        if value is not None and name != "probe"
    )
    return (
        f"<h2>How to check it</h2><p><code>tcertify verify {path}</code> computes every certificate"
        f" again from its votes. <code>tcertify verify {path} --replay 5 --dataset DATASET --model"
        " MODEL</code> also casts the votes of five images again.</p>"
        + (f"<h2>Warnings</h2><ul>{found}</ul>" if found else "")
        + f"<details><summary>Settings</summary><table>{rows}</table></details>"
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]} ..."
