"""Wheel and sdist: what lies in them, and that one makes the other."""

import tarfile
import zipfile
from email import message_from_string

import pytest

from tcertify.cli.doctor import _EXTRAS
from tests.packages import ROOT, build, extras

PACKAGES = {
    "tcertify": ROOT / "tcertify",
    "adre_train": ROOT / "adre_train",
    "tcertify_kernels": ROOT / "kernels/tcertify_kernels",
}
SUFFIXES = {".py", ".pyi", ".cu", ".cuh", ".toml", ".typed"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("built"))


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata(wheel, name):
    (found,) = [text for path, text in contents(wheel).items() if path.endswith(f"/{name}")]
    return found.decode()


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(built):
    ours = {
        f"{package}/{path.relative_to(folder)}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    found = contents(built[0])
    assert {name for name in found if ".dist-info/" not in name} == ours
    assert {name[name.rindex(".") :] for name in ours} == SUFFIXES
    assert {f"{package}/py.typed" for package in PACKAGES} <= ours


def test_the_wheel_carries_licence_commands_and_extras(built):
    assert metadata(built[0], "LICENSE") == (ROOT / "LICENSE").read_text()
    entries = metadata(built[0], "entry_points.txt")
    assert "tcertify = tcertify.cli.main:main" in entries
    assert "adre-train = adre_train.cli:main" in entries
    assert "demo = adre_train.demo:demo" in entries
    headers = message_from_string(metadata(built[0], "METADATA"))
    assert headers["License-Expression"] == "MIT"
    assert {*extras()} - {""} <= {*headers.get_all("Provides-Extra")}


def test_doctor_looks_for_every_extra():
    assert {*_EXTRAS, "cuda12", "cuda13"} == {*extras()} - {""}


def test_the_sdist_holds_what_the_wheel_is_made_of_and_no_tests(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tops = {name.partition("/")[0] for name in names}
    assert tops == {
        *("tcertify", "adre_train", "kernels"),
        *("README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE"),
        *("pyproject.toml", "PKG-INFO", ".gitignore"),
    }


def test_the_wheel_from_the_sdist_is_the_wheel_from_the_tree(built, tmp_path):
    with tarfile.open(built[1]) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    again, _ = build(tmp_path / "again", source)
    assert contents(again) == contents(built[0])
