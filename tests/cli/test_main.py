"""The command line: what it prints, what it refuses, how it exits."""

import pytest
from click.testing import CliRunner

from tcertify.bounds import clopper_pearson_lower, clopper_pearson_upper
from tcertify.cli.main import main


@pytest.fixture
def run():
    return lambda *arguments: CliRunner().invoke(main, [str(a) for a in arguments])


def test_help_lists_every_command_with_a_sentence(run):
    text = run("--help").output
    for command in main.commands.values():
        assert command.help
        assert command.name in text


def test_every_option_is_explained():
    for command in main.commands.values():
        for option in command.params:
            if option.param_type_name == "option":
                assert option.help, (command.name, option.name)


def test_bound_prints_both_bounds_with_all_digits(run):
    lower, upper = run("bound", 990, 1000, "--alpha", 0.01).output.splitlines()
    assert lower == f"lower {float(clopper_pearson_lower(990, 1000, 0.01))!r}"
    assert upper == f"upper {float(clopper_pearson_upper(990, 1000, 0.01))!r}"


def test_a_bad_argument_ends_with_one_sentence_and_no_traceback(run):
    result = run("bound", 5, 10, "--alpha", 1.5)
    assert result.exit_code == 1
    assert result.output == "Error: `alpha` must be in (0, 1), got 1.5.\n"
