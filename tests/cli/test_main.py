"""The command line as a whole: its commands, their help, what loading them costs."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from tcertify.cli.command import ORDER, Command
from tcertify.cli.main import main


def test_help_lists_every_command_in_the_order_of_work():
    lines = CliRunner().invoke(main, ["--help"]).output.split("Commands:\n")[1].splitlines()
    assert [line.split()[0] for line in lines] == [*ORDER]
    assert not any(line.endswith("...") for line in lines)


@pytest.mark.parametrize("name", ORDER)
def test_each_command_explains_its_options_and_gives_an_example(name):
    command = main.commands[name]
    assert isinstance(command, Command)
    assert command.help
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert parameter.help, parameter.name
            assert parameter.help.endswith((".", "]")), parameter.help
    for example in command.examples:
        program, called, *arguments = example.split()
        assert (program, called) == ("tcertify", name)
        command.make_context(name, arguments, resilient_parsing=True)
    text = CliRunner().invoke(main, [name, "--help"]).output
    assert command.examples[0] in text


def test_help_needs_no_library_of_numbers():
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; from tcertify.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print({'numpy', 'scipy', 'torch', 'numba', 'matplotlib'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_the_version_is_printed():
    assert "version" in CliRunner().invoke(main, ["--version"]).output
