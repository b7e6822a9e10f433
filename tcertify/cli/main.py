"""The command line: parses, calls, prints. Each command imports what it needs when it runs."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

import click

from tcertify.cli.logs import audit_command
from tcertify.cli.runs import COMMANDS
from tcertify.errors import RunError


class _Commands(click.Group):
    """Errors that name a bad argument end the command with one sentence, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, ModuleNotFoundError, FileExistsError, RunError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tcertify")
def main() -> None:
    """Certify the l2 robustness of randomized-smoothed classifiers."""


@main.command()
@click.argument("k", type=int)
@click.argument("n", type=int)
@click.option(
    "--alpha", type=float, default=0.001, show_default=True, help="Failure probability, one-sided."
)
def bound(k: int, n: int, alpha: float) -> None:
    """Print the Clopper-Pearson bounds of a probability from K successes in N trials.

    Each bound fails with probability at most alpha; both together with at most 2 alpha.
    """
    from tcertify.bounds import clopper_pearson_lower, clopper_pearson_upper

    click.echo(f"lower {float(clopper_pearson_lower(k, n, alpha))!r}")
    click.echo(f"upper {float(clopper_pearson_upper(k, n, alpha))!r}")


for _own_command in (*COMMANDS, audit_command):
    main.add_command(_own_command)

# Packages above this one add commands: `demo` trains, so it lives with training.
for _command in entry_points(group="tcertify.commands"):
    main.add_command(_command.load())
