"""write_page: a page without network, opened in a browser."""

import asyncio
import html
import os
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tcertify.data.dataset import TensorDataset
from tcertify.errors import RunFileError
from tcertify.report import write_page
from tcertify.runs import predict_dataset
from tests import tiny
from tests.report.browser import opened

CHROMIUM = shutil.which("chromium")

#: What the page shows; Bokeh keeps its widgets in shadow trees.
_FIND = """
window.find = (selector, text = "", root = document) => {
  for (const element of root.querySelectorAll("*")) {
    if (element.matches(selector) && element.textContent.includes(text)) return element;
    const below = element.shadowRoot && find(selector, text, element.shadowRoot);
    if (below) return below;
  }
  return null;
};
window.model = (name) => Bokeh.documents[0].get_model_by_name(name);
window.column = (place) => [...(find(".grid-canvas")?.querySelectorAll(".slick-row") ?? [])]
  .sort((a, b) => a.getBoundingClientRect().y - b.getBoundingClientRect().y)
  .map((row) => row.children[place].innerText);
true
"""


def photographs(count=12):
    """Images (3, 24, 24) whose means lie where those of `tiny.images` do."""
    small = tiny.images(count)
    pixels = small.images.repeat(1, 3, 12, 12)
    return TensorDataset("photographs", tiny.CLASSES, pixels, small.labels)


class Network(tiny.Network):
    """The network of the small images, on large ones."""

    def forward(self, batch):
        return super().forward(batch[:, :1, :2, :2])


def document(page):
    """What Bokeh is given to draw."""
    return re.search(r'<script type="application/json".*?</script>', page.read_text(), re.S)[0]


@pytest.fixture
def run(tmp_path):
    tiny.certify(tmp_path / "a.run", Network(), photographs())
    return tmp_path / "a.run"


async def _visit(page, folder):
    await page.until("window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle")
    await page.value(_FIND)
    assert await page.until("column(0).join()") == ",".join(map(str, range(12)))

    await page.click("find('.slick-header-column', 'radius')")
    radii = await page.until("column(0)[0] != 0 && column(4)")
    assert radii == sorted(radii)

    await page.click("find('input.bk-input')")
    await page.type("cat 3")
    assert await page.until("model('shown').text.startsWith('1 of') && model('shown').text")
    assert await page.until("column(0).length == 1 && column(0)[0]") == "3"

    await page.click("find('.slick-row').children[0]")
    panel = await page.until("model('panel').text.includes('<figure>') && model('panel').text")
    assert "<h2>Image 3</h2>" in panel
    assert "Label <b>cat</b>" in panel
    assert "Votes of 500 noisy copies" in panel
    assert panel.count("<img") == 2

    for dark in (False, True):
        await page.look(width=400, height=800, dark=dark)
        await page.until("innerWidth == 400 && document.documentElement.scrollWidth == 400")
        arrow = await page.value("getComputedStyle(find('select.bk-input')).backgroundImage")
        assert (arrow == "none") == dark  # Bokeh's arrow is black; the browser's own can be seen
        picture = folder / "page.png"
        picture.write_bytes(await page.screenshot())
        with Image.open(picture) as image:
            corner = np.asarray(image.convert("L"))[:4, :4]
        assert corner.max() < 64 if dark else corner.min() > 192


@pytest.mark.skipif(CHROMIUM is None, reason="Debian's package chromium is not installed")
def test_a_browser_sorts_filters_and_opens_an_image_without_a_network(run, tmp_path):
    page = tmp_path / "page.html"
    write_page(run, page, photographs(), ["cat", "dog", "<b>eel</b>"])

    async def visit():
        async with opened(CHROMIUM, page, tmp_path / "browser") as browser:
            await _visit(browser, tmp_path)
            return browser.requests, browser.errors

    requests, errors = asyncio.run(visit())
    assert errors == []
    assert {address.split(":")[0] for address in requests} == {"file", "data"}


def test_the_page_of_500_photographs_stays_below_three_megabytes(tmp_path):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(500, 3, 28, 28, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=224, mode="bilinear")
    labels = torch.arange(500) % tiny.CLASSES
    data = TensorDataset("large", tiny.CLASSES, (smooth * 255).byte(), labels)
    tiny.certify(tmp_path / "a.run", Network(), data, n0=1, n=100)
    write_page(tmp_path / "a.run", tmp_path / "page.html", data)
    assert (tmp_path / "page.html").stat().st_size < 3e6


def test_the_page_says_what_the_certificates_say_and_how_to_check_them(run, tmp_path):
    page = tmp_path / "page.html"
    write_page(run, page)
    text = page.read_text()
    assert "standard deviation 0.5" in text
    assert "tcertify verify a.run --replay 5" in text
    assert "data:image/webp" not in text


def test_names_are_shown_as_text(run, tmp_path):
    page = tmp_path / "page.html"
    write_page(run, page, None, ["<i>a</i>", "b", "c"])
    assert "Label <b>&lt;i&gt;a&lt;/i&gt;</b>" in html.unescape(document(page)).replace("\\", "")


def test_a_run_that_stopped_early_is_shown_at_its_radii(tmp_path):
    tiny.certify(tmp_path / "a.run", radii=[0.0, 0.25])
    write_page(tmp_path / "a.run", tmp_path / "page.html", tiny.images())
    text = (tmp_path / "page.html").read_text()
    assert "when the radii 0, 0.25 were decided" in text
    assert "VAreaStep" not in document(tmp_path / "page.html")


def test_an_image_that_failed_says_why(tmp_path):
    data = [tiny.images()[i] for i in range(4)]
    data[1] = torch.full((1, 2, 2), torch.nan), 1
    tiny.certify(tmp_path / "a.run", data=data, num_classes=tiny.CLASSES)
    write_page(tmp_path / "a.run", tmp_path / "page.html", data)
    text = (tmp_path / "page.html").read_text()
    assert "It could not be certified: its pixels are NaN" in text
    assert "1 images could not be certified" in text


@pytest.mark.parametrize(
    ("dataset", "names", "message"),
    [
        (None, ["a"], "must name 3 classes, got 1"),
        (tiny.images(4), None, "has 4 images, and the run holds image 4"),
        ([(torch.zeros(1, 2, 2), 2)] * 12, None, "image 0 is of class 2, and the run that"),
    ],
)
def test_what_does_not_belong_to_the_run_is_refused(run, tmp_path, dataset, names, message):
    with pytest.raises(ValueError, match=message):
        write_page(run, tmp_path / "page.html", dataset, names)
    assert not (tmp_path / "page.html").exists()


def test_predictions_and_runs_without_an_image_are_refused(tmp_path):
    predict_dataset(tiny.Network(), tiny.images(), sigma=0.5, out=tmp_path / "a.run", n=100)
    with pytest.raises(ValueError, match="holds predictions"):
        write_page(tmp_path / "a.run", os.devnull)

    def interrupt(done, planned):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.certify(tmp_path / "b.run", on_progress=interrupt)
    with pytest.raises(RunFileError, match="holds no image yet"):
        write_page(tmp_path / "b.run", tmp_path / "b.html")


def test_the_page_of_a_shard_says_so(tmp_path):
    tiny.certify(tmp_path / "a.run", Network(), photographs(), shard=(2, 3))
    write_page(tmp_path / "a.run", tmp_path / "a.html")
    assert "not a whole run, but a shard: 4 of 12 images" in document(tmp_path / "a.html")
