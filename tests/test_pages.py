"""The pages as a whole: what they link to, and that none is forgotten. Pages run as tests too."""

import re

import pytest

from tests.pages import ROOT, commands, masked
from tests.test_public_api import PACKAGES

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_front_page_of_the_site_has_a_sentence_about_every_page():
    front = (ROOT / "docs/index.md").read_text()
    for page in ROOT.glob("docs/*.md"):
        if page.stem != "index":
            assert re.search(rf"^- \[.+\]\({page.name}\): .+\.$", front, re.MULTILINE), page.name
            assert f"\n{page.stem}\n" in front.split("```{toctree}")[1]


def test_the_reference_holds_every_public_package():
    reference = (ROOT / "docs/api.md").read_text()
    for package in (*PACKAGES, "tcertify_kernels"):
        assert f".. automodule:: {package}\n" in reference


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_not_run_is_not_shown_behind_a_prompt(page):
    if page.stem == "scale":
        pytest.skip("its commands are for several machines")
    assert not re.search(r"^ {4}\$ ", page.read_text(), re.MULTILINE)


def test_the_commands_of_a_block_have_the_lines_below_them():
    assert commands("$ a\nb\nc\n$ d\n") == [("a", ["b", "c"]), ("d", [])]


def test_pages_are_compared_without_their_numbers():
    assert masked(["ACR  0.5 [-1e-3, 2]", "ACR 0.25 [0, 1]"]) == ["ACR # [#]"]
    assert masked(["images 1, 2 and 3 more"]) != masked(["images 1, 2 and 3 others"])
