"""The command on published logs: audit."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tcertify.cli.command import Command
from tcertify.cli.options import sigma_option
from tcertify.cli.output import emit, json_option

if TYPE_CHECKING:
    from tcertify.logs import Audit, Log
    from tcertify.report import Table


@click.command(
    "audit",
    cls=Command,
    examples=["tcertify audit published.tsv --sigma 0.5 --N 100000 --alpha 0.001"],
)
@click.argument("log", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@sigma_option
@click.option("--N", "n", type=int, help="Samples that the log's authors state.")
@click.option("--alpha", type=float, help="Failure probability that the log's authors state.")
@click.option(
    "--N-candidate",
    "n_candidates",
    type=int,
    multiple=True,
    help="Try this number of samples instead of the usual ones; may be repeated.",
)
@click.option(
    "--alpha-candidate",
    "alpha_candidates",
    type=float,
    multiple=True,
    help="Try this alpha instead of the usual ones; may be repeated.",
)
@click.option("--recertify", "new_alpha", type=float, help="Also print the table at this alpha.")
@click.option("--step", type=float, help="Distance between the radii of the table.")
@json_option
@click.pass_context
def audit(
    context: click.Context,
    log: Path,
    sigma: float,
    n: int | None,
    alpha: float | None,
    n_candidates: tuple[int, ...],
    alpha_candidates: tuple[float, ...],
    new_alpha: float | None,
    step: float | None,
    as_json: bool,
) -> None:
    """Find out how a published log was made.

    It says which number of samples and which alpha a log of CERTIFY was made with: every radius
    that CERTIFY prints lies on a lattice that both determine. Ends with status 1 when the radii
    contradict the stated --N and --alpha.
    """
    from tcertify.logs import audit_log, read_log

    rows = read_log(log)
    candidates: dict[str, Any] = {
        "n_candidates": n_candidates,
        "alpha_candidates": alpha_candidates,
    }
    given = {name: values for name, values in candidates.items() if values}
    found = audit_log(rows, sigma=sigma, n=n, alpha=alpha, **given)
    for note in rows.notes:
        click.echo(note, err=True)
    table = _table(rows, found, sigma, new_alpha, step)
    emit(
        {
            "log": str(log),
            "verdict": found.verdict,
            "contradicted": found.contradicted,
            "fits": [asdict(fit) for fit in found.fits],
            "tables": table.records(),
        },
        "\n".join(
            [*(_fits(found) if found.fits else []), found.verdict, table.to("text"), *table.notes()]
        ),
        as_json=as_json,
    )
    context.exit(1 if found.contradicted else 0)


def _table(
    rows: Log, found: Audit, sigma: float, new_alpha: float | None, step: float | None
) -> Table:
    """Return the table of the log as printed and, where asked for, at another alpha."""
    from tcertify.logs import recertify_log
    from tcertify.report import Result, certified_table, radii_up_to

    results = [Result.of_log(rows, "as printed")]
    if new_alpha is not None:
        source = found.best or found.stated
        if source is None:
            raise click.UsageError(
                "--recertify needs to know how the log was made: give --N and --alpha."
            )
        radius = recertify_log(
            rows, sigma=sigma, n=source.n, alpha=source.alpha, new_alpha=new_alpha
        )
        results.append(replace(results[0], name=f"alpha = {new_alpha:g}", radius=radius))
    return certified_table(results, radii_up_to(float(rows.radius.max()), step))


def _fits(found: Audit) -> list[str]:
    """Return lines on the five likeliest candidates and the stated one."""
    shown = list(found.fits[:5])
    if found.stated is not None and found.stated not in shown:
        shown.append(found.stated)
    lines = ["       N    alpha  misfits  of rows  expected by chance  log10 odds"]
    return lines + [
        f"{fit.n:8d} {fit.alpha:8g} {fit.misfits:8d} {fit.rows:8d} {fit.expected_misfits:19.1f} "
        f"{fit.evidence:11.1f}" + ("  stated" if fit is found.stated else "")
        for fit in shown
    ]
