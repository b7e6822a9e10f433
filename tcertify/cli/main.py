"""The command line: parses, calls, prints. Each command imports what it needs when it runs."""

from __future__ import annotations

from importlib.metadata import entry_points

import click

from tcertify.cli.command import Group
from tcertify.cli.doctor import doctor
from tcertify.cli.logs import audit
from tcertify.cli.planning import bound, plan
from tcertify.cli.report import compare, plot, report, table
from tcertify.cli.runs import certify, export, merge, predict, recertify, verify
from tcertify.cli.tuning import tune


@click.group("tcertify", cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--traceback", is_flag=True, help="Show the whole traceback of an error.")
@click.version_option(package_name="tcertify")
def main(traceback: bool) -> None:
    """Certify the l2 robustness of randomized-smoothed classifiers.

    Results go to stdout, messages to stderr. Exit status: 0 done, 1 findings or an error, 2 wrong
    usage, 3 images failed or missing, 130 interrupted.
    """


for _command in (
    certify,
    predict,
    plot,
    table,
    report,
    compare,
    verify,
    recertify,
    merge,
    export,
    audit,
    bound,
    plan,
    tune,
    doctor,
):
    main.add_command(_command)

# Packages above this one add commands: `demo` trains, so it lives with training.
for _entry in entry_points(group="tcertify.commands"):
    main.add_command(_entry.load())
