"""Each module that is run with ``python -m benchmarks.NAME`` explains itself, and does no more."""

import os
import subprocess
import sys

import pytest

from benchmarks import ROOT

FOLDER = ROOT / "benchmarks"
MAIN = '\nif __name__ == "__main__":'
COMMANDS = sorted(path.stem for path in FOLDER.glob("*.py") if MAIN in path.read_text())


def run(name, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def written():
    """What lies where results are written, and since when."""
    places = (FOLDER / "results", ROOT / "docs" / "figures")
    return {path: path.stat().st_mtime_ns for place in places for path in place.iterdir()}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_what_a_command_does_and_runs_nothing(name):
    before = written()
    done = run(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.lower().startswith("usage:")
    assert written() == before


def test_an_option_that_is_not_known_is_refused():
    before = written()
    done = run("cpu", "--nonsense")
    assert done.returncode == 2
    assert "unrecognized arguments: --nonsense" in done.stderr
    assert written() == before
