"""The commands that need no images: bound, plan."""

from __future__ import annotations

import click

from tcertify.cli.command import Command
from tcertify.cli.options import METHODS, alpha_option, sigma_option
from tcertify.cli.output import emit, json_option

#: Nobody draws more samples per image.
MOST = 10_000_000


@click.command(cls=Command, examples=["tcertify bound 990 1000"])
@click.argument("k", type=int)
@click.argument("n", type=int)
@click.option(
    "--alpha",
    type=float,
    default=0.001,
    show_default=True,
    help="Probability that a bound may be wrong.",
)
@json_option
def bound(k: int, n: int, alpha: float, as_json: bool) -> None:
    """Print the Clopper-Pearson bounds of a probability.

    They are made from K successes in N trials. Each bound is wrong with probability at most alpha;
    one of the two with at most 2 alpha.
    """
    from tcertify.bounds import clopper_pearson_lower, clopper_pearson_upper

    lower = float(clopper_pearson_lower(k, n, alpha))
    upper = float(clopper_pearson_upper(k, n, alpha))
    emit({"lower": lower, "upper": upper}, f"lower {lower!r}\nupper {upper!r}", as_json=as_json)


@click.command(
    cls=Command, examples=["tcertify plan --radius 0.5 --sigma 0.5 --p-a 0.9 --p-b 0.05"]
)
@click.option("--radius", type=float, required=True, help="Radius to certify.")
@sigma_option
@click.option(
    "--p-a", type=float, required=True, help="Probability of the predicted class under noise."
)
@click.option(
    "--p-b",
    type=float,
    help="Probability of the next likely class.  [default: all the rest]",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="joint",
    show_default=True,
    help="How votes become a radius.",
)
@alpha_option
@click.option(
    "--beta",
    type=float,
    default=0.1,
    show_default=True,
    help="Probability that may miss the radius.",
)
@click.option("--N", "n", type=int, default=100_000, show_default=True, help="Samples to judge.")
@json_option
def plan(
    radius: float,
    sigma: float,
    p_a: float,
    p_b: float | None,
    method: str,
    alpha: float,
    beta: float,
    n: int,
    as_json: bool,
) -> None:
    """Say how many samples certify a radius."""
    from tcertify.logs import format_down
    from tcertify.statistics import largest_radius, power, samples_needed

    rival = max(0.0, 1 - p_a) if p_b is None else p_b
    needed = samples_needed(
        p_a, rival, radius, sigma=sigma, alpha=alpha, beta=beta, method=method, maximum=MOST
    )
    likely = power(n, p_a, rival, radius, sigma=sigma, alpha=alpha, method=method)
    largest = largest_radius(n, alpha, sigma)
    verdict = (
        f"{needed} samples certify radius {radius:g} with probability {1 - beta:g}"
        if needed
        else f"no number of samples up to {MOST:,} certifies radius {radius:g}"
    )
    emit(
        {"samples": needed, "N": n, "power": likely, "largest_radius": largest},
        f"{verdict}\n{n} samples certify it with probability {format_down(likely, 4)}, and no"
        f" radius above {format_down(largest, 4)}",
        as_json=as_json,
    )
