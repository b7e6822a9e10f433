"""Completion in the shell, as bash asks for it."""

import os
import subprocess
import sys

import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from adre_train import recipe
from adre_train.cli import RECIPES
from adre_train.cli import main as train
from tcertify.cli.command import ORDER
from tcertify.cli.main import main

FILES = ("file", "")


def completed(line, program=main, name="tcertify"):
    """What bash is offered at the end of a line: (kind, value)."""
    *words, incomplete = line.split(" ")
    asked = BashComplete(program, {}, name, f"_{name.upper()}_COMPLETE")
    return [(item.type, item.value) for item in asked.get_completions(words, incomplete)]


def names(line):
    return {value for kind, value in completed(line) if kind == "plain"}


def test_commands_complete_in_the_order_of_work():
    assert [value for _, value in completed("")] == [*ORDER]
    assert names("ver") == {"verify"}


def test_options_and_their_choices_complete():
    assert {"--noise", "--normalize"} <= names("certify --no")
    assert names("certify --noise ") == {"auto", "integer", "gaussian"}
    assert names("recertify a.run --method t") == {"t-certify"}


@pytest.mark.parametrize("line", ["certify ", "predict ", "verify a.run --dataset "])
def test_data_sets_complete_by_name_and_files_by_the_shell(line):
    assert names(line) == {"digits", "fashion-mnist", "cifar10", "imagenet"}
    assert FILES in completed(line)


@pytest.mark.parametrize(
    "line",
    ["certify digits ", "verify ", "table ", "plot a.run ", "compare a.run ", "audit ", "export "],
)
def test_models_runs_and_logs_complete_as_files(line):
    assert completed(line) == [FILES]


def test_constants_complete():
    assert names("certify --normalize ci") == {"cifar10"}


def test_recipes_complete():
    assert [*RECIPES] == recipe.names()
    found = completed("cifar10", train, "adre-train")
    assert found == [("file", "cifar10"), ("plain", "cifar10"), ("plain", "cifar10-adv")]


def test_the_script_for_bash_is_what_the_page_says(monkeypatch):
    monkeypatch.setenv("_TCERTIFY_COMPLETE", "bash_source")
    script = CliRunner().invoke(main, prog_name="tcertify").output
    assert "_TCERTIFY_COMPLETE=bash_complete" in script
    assert "complete -o nosort -F _tcertify_completion tcertify" in script


def test_completing_loads_no_library_of_numbers():
    environment = os.environ | {
        "_TCERTIFY_COMPLETE": "bash_complete",
        "COMP_WORDS": "tcertify certify di",
        "COMP_CWORD": "2",
    }
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; from tcertify.cli.main import main\n"
        "try: main(prog_name='tcertify')\nexcept SystemExit: pass\n"
        "print({'numpy', 'torch', 'numba'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.splitlines() == ["file,di", "plain,digits", "set()"]
