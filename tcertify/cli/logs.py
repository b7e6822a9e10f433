"""The command on published logs: audit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tcertify.logs.audit import Audit
    from tcertify.logs.tsv import Log


@click.command("audit")
@click.argument("log", type=click.Path(exists=True, dir_okay=False))
@click.option("--sigma", type=float, required=True, help="Noise that the log was made with.")
@click.option("--n", type=int, help="Samples that the log's authors state.")
@click.option("--alpha", type=float, help="Failure probability that the log's authors state.")
@click.option("--n-candidates", type=int, multiple=True, help="Try these n, not the usual ones.")
@click.option(
    "--alpha-candidates", type=float, multiple=True, help="Try these alpha, not the usual ones."
)
@click.option("--recertify", "new_alpha", type=float, help="Also give the table at this alpha.")
@click.option("--step", type=float, default=0.25, show_default=True, help="Between table radii.")
@click.pass_context
def audit_command(
    context: click.Context,
    log: str,
    sigma: float,
    n: int | None,
    alpha: float | None,
    n_candidates: tuple[int, ...],
    alpha_candidates: tuple[float, ...],
    new_alpha: float | None,
    step: float,
) -> None:
    """Say which n and alpha a CERTIFY log was made with, and print its table.

    Ends with status 1 when the radii contradict the stated n and alpha.
    """
    from tcertify._checks import check_positive
    from tcertify.logs.audit import audit_log, recertify_log
    from tcertify.logs.tsv import read_log

    rows = read_log(log)
    candidates: dict[str, Any] = {
        "n_candidates": n_candidates,
        "alpha_candidates": alpha_candidates,
    }
    given = {name: values for name, values in candidates.items() if values}
    audit = audit_log(rows, sigma=sigma, n=n, alpha=alpha, **given)
    for note in rows.notes:
        click.echo(note, err=True)
    if audit.fits:
        click.echo(_fits_table(audit))
    click.echo(audit.verdict)
    tables = {"as printed": rows.radius}
    if new_alpha is not None:
        source = audit.best or audit.stated
        if source is None:
            raise ValueError("To recertify, n and alpha must be known; state --n and --alpha.")
        tables[f"alpha = {new_alpha:g}"] = recertify_log(
            rows, sigma=sigma, n=source.n, alpha=source.alpha, new_alpha=new_alpha
        )
    click.echo(_accuracy_table(rows, tables, check_positive("step", step)))
    context.exit(1 if audit.contradicted else 0)


def _fits_table(audit: Audit) -> str:
    """The five likeliest candidates and the stated one."""
    shown = list(audit.fits[:5])
    if audit.stated is not None and audit.stated not in shown:
        shown.append(audit.stated)
    lines = ["       n    alpha  misfits  of rows  expected by chance  log10 odds"]
    lines += [
        f"{fit.n:8d} {fit.alpha:8g} {fit.misfits:8d} {fit.rows:8d} {fit.expected_misfits:19.1f} "
        f"{fit.evidence:11.1f}" + ("  stated" if fit is audit.stated else "")
        for fit in shown
    ]
    return "\n".join(lines)


def _accuracy_table(log: Log, tables: dict[str, NDArray[np.float64]], step: float) -> str:
    """Certified accuracy with its 95 % interval by radius, and ACR, one column a radius array."""
    import numpy as np

    from tcertify.logs.tsv import format_down
    from tcertify.statistics.curves import average_certified_radius, certified_accuracy

    width = 26
    radii = np.arange(0.0, log.radius.max() + step, step)
    curves = [certified_accuracy(radius, log.correct, radii) for radius in tables.values()]
    means = [average_certified_radius(radius, log.correct) for radius in tables.values()]
    lines = ["radius   " + "".join(f"{name:>{width}}" for name in tables)]
    for row, radius in enumerate(radii):
        cells = [
            f"{curve.share[row]:8.4f} [{curve.lower[row]:.4f}, {curve.upper[row]:.4f}]"
            for curve in curves
        ]
        lines.append(f"{radius:<9.4g}" + "".join(f"{cell:>{width}}" for cell in cells))
    cells = [
        f"{format_down(mean.value, 4):>8} [{mean.lower:.4f}, {mean.upper:.4f}]" for mean in means
    ]
    lines.append("ACR      " + "".join(f"{cell:>{width}}" for cell in cells))
    return "\n".join(lines)
