"""What every command shares: how it reads negative numbers, how it fails, how it is interrupted."""

from __future__ import annotations

import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from tcertify.cli.failures import explain, is_broken_pipe

#: The order of work.
ORDER = (
    "demo",
    "certify",
    "predict",
    "plot",
    "table",
    "report",
    "compare",
    "verify",
    "recertify",
    "merge",
    "export",
    "audit",
    "bound",
    "plan",
    "tune",
    "doctor",
)

INTERRUPTED = 130

_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+|inf|nan)([eE][-+]?\d+)?")


class Command(click.Command):
    """A command whose errors are sentences; negative numbers are arguments, not options.

    `examples` are command lines that its help shows.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, each on a line of its own."""
        with formatter.section("Examples" if len(self.examples) > 1 else "Example"):
            for example in self.examples:
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; where an option is unknown that is a negative number, take it as an argument."""
        given = [*args]
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption:
            if not any(map(_NEGATIVE.fullmatch, given)):
                raise
            ctx.ignore_unknown_options = True
            return super().parse_args(ctx, given)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what it raises ends as one sentence, unless --traceback was given."""
        try:
            with _one_line_warnings():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None
        except (Exception, SystemExit) as error:  # the user's code may end the program
            root = ctx.find_root()
            if is_broken_pipe(error) or root.params.get("traceback"):
                raise
            see_all = f"{root.command.name} --traceback {'...' if ctx is root else 'COMMAND ...'}"
            raise click.ClickException(explain(error, _spelled(ctx), see_all)) from None


class Group(click.Group):
    """Commands in the order of work."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands in the order of work, those unknown here last."""
        return sorted(
            self.commands, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER)
        )

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # file names need not be valid text
                stream.reconfigure(errors="backslashreplace")
        with _interrupted_once():
            return super().main(*args, **kwargs)


def _spelled(ctx: click.Context) -> dict[str, str]:
    """Return how the command line spells each argument: `n` as --N, `sigma` as SIGMA."""
    return {
        str(parameter.name): max(parameter.opts, key=len)
        if isinstance(parameter, click.Option)
        else parameter.human_readable_name
        for parameter in ctx.command.params
    }


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Show a warning as one line, without the line of code that it came from."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        click.echo(f"warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def _interrupted_once() -> Iterator[None]:
    """Let the first Ctrl-C end the command in order, and a second one at once, without a word.

    A run file is whole at any moment, so that the second loses no image that was finished.
    """
    before = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or before is not signal.default_int_handler:
        yield  # somebody else minds the interrupts, or ignores them
        return

    def interrupt(*_: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
