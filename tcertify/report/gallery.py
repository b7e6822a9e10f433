"""The images of a run on its page: a table to sort and to filter, and a panel for one image."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tcertify.logs.tsv import format_down
from tcertify.runs.file import RunFile
from tcertify.runs.row import Row
from tcertify.runs.table import RunTable

if TYPE_CHECKING:
    from bokeh.models import ColumnDataSource
    from bokeh.models.widgets import DataTable
    from torch import Tensor

    from tcertify.data.dataset import Dataset

#: Pixels of a picture's longer side, at most: 500 photographs take half a megabyte.
_LONGEST = 48

#: Classes whose votes are shown.
_MOST_CLASSES = 8

_PANEL_STYLE = """
figure { display: inline-block; margin: .3rem .8rem .3rem 0 }
figure img, figure canvas { image-rendering: pixelated; height: 128px; display: block }
figcaption { font-size: .85em }
meter { width: 8em }
"""
_TABLE_STYLE = """
:host { --paper: #fff; --ink: #222; --line: #ddd; font-family: system-ui, sans-serif }
@media (prefers-color-scheme: dark) { :host { --paper: #1b1b1b; --ink: #ddd; --line: #444 } }
.bk-data-table, .slick-viewport, .slick-pane, .grid-canvas, .slick-row, .slick-header,
.slick-header-columns, .slick-header-column, .slick-cell {
  background: var(--paper) !important; color: var(--ink) !important;
  border-color: var(--line) !important }
.slick-row { cursor: pointer }
.slick-cell.selected { background: #2f6db3 !important; color: #fff !important }
.slick-cell { line-height: 30px !important }
.slick-cell img { height: 28px; image-rendering: pixelated }
"""
_INPUT_STYLE = """
@media (prefers-color-scheme: dark) {
  :host { color: #ddd }
  .bk-input { background-color: #1b1b1b !important; color: #ddd; border-color: #555 }
  select.bk-input { appearance: auto !important; background-image: none !important }
}
"""

_FILTER = """
const words = text.value_input.trim().toLowerCase().split(/\\s+/).filter(w => w);
const d = source.data;
const chosen = [];
for (let i = 0; i < d.image_id.length; i++) {
  if (which.value != "all" && which.value != d.kind[i]) continue;
  const row = `${d.image_id[i]} ${d.label[i]} ${d.answer[i]}`.toLowerCase();
  if (words.every(w => row.includes(w))) chosen.push(i);
}
filter.indices = chosen;
shown.text = `${chosen.length} of ${d.image_id.length} images`;
"""

# The noise is drawn here, where it takes no room in the file.
_OPEN = """
const i = source.selected.indices[0];
if (i === undefined) return;
const d = source.data;
const figure = (address, caption) =>
  `<figure><img src="${address}" alt="${caption}"><figcaption>${caption}</figcaption></figure>`;
const n = d.n[i];
const bars = d.classes[i].map((c, k) => `<tr><td>${c < 0 ? "invalid" : names[c]}</td><td><meter`
  + ` max=${n} value=${d.counts[i][k]}></meter></td><td>${d.counts[i][k]}</td></tr>`).join("");
const votes = n ? `<p>Votes of ${n} noisy copies:</p><table>${bars}</table>` : "";
const show = (pictures) => { panel.text = d.head[i] + pictures + votes; };
const clean = d.picture[i];
if (!clean) { show(""); return; }
const image = new Image();
image.onload = () => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const grey = d.channels[i] == 1;
  const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random()))
    * Math.cos(2 * Math.PI * Math.random());
  for (let p = 0; p < pixels.data.length; p += 4) {
    const same = normal();
    for (let c = 0; c < 3; c++)
      pixels.data[p + c] += 255 * sigma * (grey ? same : normal());
  }
  context.putImageData(pixels, 0, 0);
  show(figure(clean, "the image") + figure(canvas.toDataURL(), "with such noise"));
};
image.src = clean;
"""


def gallery(
    table: RunTable, names: tuple[str, ...], dataset: Dataset | None, style: str
) -> list[Any]:
    """Return the table of a run's images with its filters, and the panel that a row opens."""
    from bokeh.layouts import row
    from bokeh.models import CDSView, ColumnDataSource, CustomJS, IndexFilter
    from bokeh.models.widgets import Div, Select, TextInput

    source = ColumnDataSource(_columns(table, names, dataset), name="images")
    filter = IndexFilter(indices=[*range(len(table))])
    styles: list[Any] = [style, _PANEL_STYLE]
    shown = Div(text=f"{len(table)} of {len(table)} images", name="shown", stylesheets=styles)
    text = TextInput(
        title="Image or class", width=160, name="text", stylesheets=[style, _INPUT_STYLE]
    )
    kinds = ["all", *sorted({*source.data["kind"]})]
    which = Select(
        title="Show",
        options=kinds,
        value="all",
        width=120,
        name="which",
        stylesheets=[style, _INPUT_STYLE],
    )
    inputs = {"source": source, "filter": filter, "text": text, "which": which, "shown": shown}
    narrow = CustomJS(args=inputs, code=_FILTER)
    text.js_on_change("value_input", narrow)
    which.js_on_change("value", narrow)
    panel = Div(
        text="<p>Choose a row to see its image and votes.</p>",
        name="panel",
        stylesheets=styles,
        sizing_mode="stretch_width",
    )
    opened = CustomJS(
        args={
            "source": source,
            "panel": panel,
            "sigma": table.settings.sigma,
            "names": [*map(html.escape, names)],
        },
        code=_OPEN,
    )
    source.selected.js_on_change("indices", opened)
    grid = _grid(source, CDSView(filter=filter))
    heading = Div(text="<h2>Images</h2>", stylesheets=styles)
    return [heading, row(text, which, shown, styles={"flex-wrap": "wrap"}), grid, panel]


def _grid(source: ColumnDataSource, view: Any) -> DataTable:
    from bokeh.models.widgets import DataTable, HTMLTemplateFormatter, NumberFormatter, TableColumn

    number = NumberFormatter(format="0.0000", rounding="floor")
    columns = [
        TableColumn(field="image_id", title="image", width=55),
        TableColumn(field="label", title="label", width=80),
        TableColumn(field="answer", title="answer", width=80),
        TableColumn(field="radius", title="radius", width=65, formatter=number),
        TableColumn(field="p_a_lower", title="p_A ≥", width=65, formatter=number),
        TableColumn(field="n", title="samples", width=70),
    ]
    if any(source.data["picture"]):
        picture = HTMLTemplateFormatter(
            template='<% if (value) { %><img src="<%= value %>"><% } %>'
        )
        columns.insert(
            1, TableColumn(field="picture", title="", width=45, sortable=False, formatter=picture)
        )
    return DataTable(
        source=source,
        columns=columns,
        view=view,
        index_position=None,
        height=360,
        row_height=32,
        sizing_mode="stretch_width",
        stylesheets=[_TABLE_STYLE],
        name="table",
    )


def _columns(
    table: RunTable, names: tuple[str, ...], dataset: Dataset | None
) -> dict[str, list[Any]]:
    """Return what the page knows of each image, column by column."""
    with RunFile(table.path) as run:
        rows = [*run.rows()]
    pictures = [_picture(dataset, row) for row in rows]
    votes = [_votes(row) for row in rows]
    return {
        "image_id": [row.image_id for row in rows],
        "label": [names[row.label] for row in rows],
        "answer": [_answer(row, names) for row in rows],
        "kind": [_kind(row) for row in rows],
        "radius": [row.radius for row in rows],
        "p_a_lower": [row.p_a_lower for row in rows],
        "n": [row.n for row in rows],
        "picture": [address for address, _ in pictures],
        "channels": [channels for _, channels in pictures],
        "head": [_head(row, names) for row in rows],
        "classes": [classes for classes, _ in votes],
        "counts": [counts for _, counts in votes],
    }


def _kind(row: Row) -> str:
    if row.error is not None:
        return "failed"
    if row.predicted < 0:
        return "abstained"
    return "right" if row.predicted == row.label else "wrong"


def _answer(row: Row, names: tuple[str, ...]) -> str:
    return names[row.predicted] if row.predicted >= 0 else _kind(row)


def _picture(dataset: Dataset | None, row: Row) -> tuple[str, int]:
    """Return an image as a data address, empty where it is no picture, and its channels."""
    if dataset is None or row.error is not None:
        return "", 0
    import torch

    if not row.image_id < len(dataset):
        raise ValueError(
            f"`dataset` has {len(dataset)} images, and the run holds image {row.image_id}: it is"
            " not the run's."
        )
    image, label = dataset[row.image_id]
    if int(label) != row.label:
        raise ValueError(
            f"`dataset` says that image {row.image_id} is of class {int(label)}, and the run that"
            f" it is of class {row.label}: it is not the run's."
        )
    pixels = torch.as_tensor(image).detach().float().cpu()
    if pixels.dim() != 3 or pixels.shape[0] not in (1, 3):
        return "", 0
    return _address(pixels), pixels.shape[0]


def _address(pixels: Tensor) -> str:
    """Return an image (C, H, W) in [0, 1] as a data address."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise ModuleNotFoundError("Pictures are made with Pillow: pip install pillow.") from None
    channels = (pixels.clamp(0, 1) * 255).round().byte().numpy().transpose(1, 2, 0)
    picture = Image.fromarray(channels[..., 0] if channels.shape[2] == 1 else channels)
    picture.thumbnail((_LONGEST, _LONGEST))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=50, lossless=max(picture.size) <= 16)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _head(row: Row, names: tuple[str, ...]) -> str:
    """Return what is said of one image when its row is chosen, as HTML."""
    title = f"<h2>Image {row.image_id}</h2>"
    if row.error is not None:
        return f"{title}<p>It could not be certified: {html.escape(row.error)}.</p>"
    said = "The votes support no certificate: it abstains."
    if row.predicted >= 0:
        said = (
            f"Answer <b>{html.escape(names[row.predicted])}</b>, which no change of l2 norm below"
            f" <b>{format_down(row.radius, 4)}</b> alters."
        )
    return f"{title}<p>Label <b>{html.escape(names[row.label])}</b>. {said}</p>"


def _votes(row: Row) -> tuple[list[int], list[int]]:
    """Return the classes that received most votes, -1 for the invalid ones, and their votes."""
    if not len(row.looks):
        return [], []
    votes: NDArray[np.int64] = row.looks[row.look]
    most = np.argsort(-votes[:-1], kind="stable")[:_MOST_CLASSES]
    found = {int(c): int(votes[c]) for c in most if votes[c]}
    if votes[-1]:
        found[-1] = int(votes[-1])
    return [*found], [*found.values()]
