"""The guess list of CONTRIBUTING.md names the file of any behaviour, and names each file once."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def modules():
    """Every module with behaviour, as the guess list names it: its path below the package."""
    package = ROOT / "tcertify"
    return {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }


def guesses():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| (?P<behaviour>[^|]+) \| (?P<files>`[^|]+) \|$", text, re.MULTILINE)
    return [name for _, files in rows for name in re.findall(r"`([\w/]+\.py)`", files)]


def test_every_module_stands_once_in_the_guess_list():
    listed = guesses()
    assert sorted(set(listed)) == sorted(listed), "a file is listed twice"
    assert set(listed) == modules()


def test_every_test_file_has_the_name_of_a_module():
    tested = ROOT / "tests"
    across = {  # what no single module does
        "cli/completion.py",
        "cli/mistakes.py",
        "guess_list.py",
        "hostile.py",
        "imports.py",
        "packages.py",
        "pages.py",
        "public_api.py",
        "runs/fault_injection.py",
        "runs/charged_runs.py",
        "runs/faults.py",
        "runs/forged.py",
        "runs/format.py",
        "runs/integer_runs.py",
        "runs/planned_runs.py",
    }
    folders = ("", "bounds", "classifiers", "cli", "data", "logs", "report", "runs", "statistics")
    named = {
        str(path.relative_to(tested).with_name(path.name.removeprefix("test_")))
        for folder in folders
        for path in (tested / folder).glob("test_*.py")
    }
    flat = {re.sub(r"(^|/)_+", r"\1", module) for module in modules()}
    assert named - flat - across == set()
