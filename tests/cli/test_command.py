"""Command and Group: negative numbers, warnings, interrupts, text that is none."""

import signal
import subprocess
import sys
import textwrap
import warnings

import click
import pytest
from click.testing import CliRunner

from tcertify._checks import check_whole
from tcertify.cli.command import Command, Group


@click.group(cls=Group)
@click.option("--traceback", is_flag=True)
def group(traceback):
    """A group of commands."""


@group.command(examples=["group show -1"])
@click.argument("number", type=float)
@click.option("--flag", is_flag=True)
def show(number, flag):
    """Print a number."""
    click.echo(f"{number} {flag}")


@group.command()
@click.argument("kind")
def fail(kind):
    """Fail in some way."""
    if kind == "warning":
        warnings.warn("look out", UserWarning, stacklevel=1)
        return
    if kind == "interrupt":
        raise KeyboardInterrupt
    check_whole("kind", kind)


def run(*arguments):
    return CliRunner().invoke(group, [*arguments])


@pytest.mark.parametrize("number", ["-1", "-0.5", "-.5", "-1e-3", "-inf", "-nan"])
def test_a_negative_number_is_an_argument(number):
    result = run("show", number, "--flag")
    assert result.output == f"{float(number)} True\n"


def test_an_unknown_option_is_refused_beside_other_arguments():
    result = run("show", "1", "--flog")
    assert result.exit_code == 2
    assert "No such option" in result.output


def test_an_interrupt_ends_with_130_and_a_word():
    result = run("fail", "interrupt")
    assert (result.exit_code, result.output) == (130, "interrupted\n")


def test_an_error_names_the_argument_as_the_command_line_spells_it():
    assert run("fail", "value").output == "Error: KIND must be a whole number, got 'value'.\n"
    assert isinstance(run("--traceback", "fail", "value").exception, ValueError)


def test_a_warning_is_one_line():
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run("fail", "warning").output == "warning: look out\n"


def test_the_group_makes_commands_of_this_kind_and_lists_unknown_ones_last():
    assert isinstance(show, Command)
    assert sorted(group.list_commands(None)) == ["fail", "show"]
    assert "Example:\n  group show -1" in run("show", "--help").output


def test_a_second_interrupt_ends_the_program_at_once_without_a_word():
    code = f"""
        import sys; sys.path[:0] = {sys.path!r}
        import os, signal, time, click
        from tcertify.cli.command import Group
        signal.signal(signal.SIGINT, signal.default_int_handler)

        @click.group(cls=Group)
        def main(): pass

        @main.command()
        def wait():
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)
            finally:
                print("tidying up", flush=True)
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)

        main(["wait"])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("tidying up\n", "")
    assert done.returncode == -signal.SIGINT


def test_names_that_are_no_text_are_printed():
    code = f"""
        import sys; sys.path[:0] = {sys.path!r}
        import click
        from tcertify.cli.command import Group

        @click.group(cls=Group)
        def main(): pass

        @main.command()
        def show(): click.echo("weights-\\udcff.pth")

        main(["show"])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, check=True
    )
    assert done.stdout == b"weights-\\udcff.pth\n"
