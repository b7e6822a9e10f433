"""What radius loss, a budget and a reserve save or cost, on published logs.

Run `python -m benchmarks.allocation FOLDER_WITH_LOGS` from the root of the repository: it takes
some minutes and writes benchmarks/results/allocation.tsv. A log says which radius CERTIFY gave
each image, and so which count it had: p_A is drawn from the posterior of that count. It does not
name the runner-up, which gets 0.6 (1 - p_A) here. Seeds are fixed.
"""

import csv
from pathlib import Path

import numpy as np

from benchmarks import parser_of
from tcertify.certificates import certify_votes
from tcertify.logs.audit import smallest_counts
from tcertify.logs.tsv import read_log
from tcertify.statistics.allocation import plan_for_budget, plan_for_loss
from tcertify.statistics.reserve import topped_up
from tcertify.statistics.stopping import Schedule
from tcertify.votes import Votes

TABLE = Path(__file__).parent / "results/allocation.tsv"
N, ALPHA, RIVAL, STEP = 100_000, 0.001, 0.6, 0.25
IMAGES, PILOT = 500, 100


class Images:
    """One path of votes of each image of a log, drawn look by look."""

    def __init__(self, file):
        self.sigma = float(file.stem.rpartition("_")[2])
        log, rng = read_log(file), np.random.default_rng(1)
        rows = np.arange(len(log.idx))[:: max(1, len(log.idx) // IMAGES)]
        count = smallest_counts(log, sigma=self.sigma, n=N, alpha=ALPHA)[rows]
        p_a = rng.beta(count + 0.5, N - count + 0.5)
        self.p_a = np.where(log.predict[rows] < 0, rng.uniform(0.3, 0.5, len(rows)), p_a)
        self.correct = log.correct[rows]
        self.radii = np.arange(0, 4.5 * self.sigma, STEP)
        self.paths = {}

    def path(self, looks):
        """Votes (looks, images, 2) at these looks, of one stream whatever the looks."""
        rng, votes, seen, path = np.random.default_rng(2), 0, 0, []
        for look in sorted({*looks, *Schedule.geometric(N, ALPHA).looks, 2 * N}):
            a = rng.binomial(look - seen, self.p_a)
            b = rng.binomial(look - seen - a, RIVAL)
            votes, seen = votes + np.stack([a, b], axis=1), look
            if look in looks:
                path.append(votes)
        return np.array(path)


def votes_of(counts, n):
    """Two classes that are named; the other votes went to classes too rare to matter."""
    zeros = np.zeros(len(counts), dtype=np.int64)
    return Votes(counts, zeros, np.asarray(n - counts.sum(1), dtype=np.int64) + zeros)


def fixed(images, n, alpha=ALPHA):
    """Radii of a run of n samples per image."""
    counts = images.path((n,))[0]
    return certify_votes(
        votes_of(counts, n), sigma=images.sigma, alpha=alpha, method="joint"
    ).radius


def planned(images, plan, wanted=True, **goal):
    """(samples, radius) of each image: one look, after as many samples as the pilot asks for."""
    sizes = Schedule.geometric(N, ALPHA, first=1000).looks
    rng = np.random.default_rng(3)
    a = rng.binomial(PILOT, images.p_a)
    pilot = votes_of(np.stack([a, rng.binomial(PILOT - a, RIVAL)], axis=1), PILOT)
    used = plan(pilot, sizes, alpha=ALPHA, wanted=wanted, **goal)
    path = images.path(sizes)
    votes = votes_of(path[np.searchsorted(sizes, used), np.arange(len(used))], used)
    return used, certify_votes(votes, sigma=images.sigma, alpha=ALPHA, method="joint").radius


def cells(images, radius):
    """Which cell of the grid each radius falls in."""
    return np.where(radius > 0, np.searchsorted(images.radii, radius, side="right"), 0)


def summary(images, radius, full):
    """ACR against the full run, and cells of the grid lost per 500 images."""
    score = (radius * images.correct).mean() / (full * images.correct).mean()
    lost = (cells(images, full) - cells(images, radius))[images.correct].sum()
    return score, 500 * lost / len(radius)


def rows_of(images, name):
    """Rows of the table for one log."""
    full = fixed(images, N)

    def row(rule, used, radius):
        return name, rule, np.mean(used), *summary(images, radius, full)

    for loss in (0.02, 0.05):
        used, radius = planned(images, plan_for_loss, radius_loss=loss)
        yield row(f"radius loss {loss:g}", used, radius)
        n = round(used.mean())
        yield row("fixed n of that cost", n, fixed(images, n))
        yield row(
            f"radius loss {loss:g}, right answers",
            *planned(images, plan_for_loss, images.correct, radius_loss=loss),
        )
    for mean in (3_000, 10_000):
        budget = mean * len(full)
        yield row(f"budget of {mean:,} per image", *planned(images, plan_for_budget, budget=budget))
        yield row("fixed n of that cost", mean, fixed(images, mean))
    yield row("n at half of alpha", N, fixed(images, N, ALPHA / 2))
    base = Schedule.single(N, ALPHA / 2)
    yield row(
        "topped up to 2 n",
        2 * N,
        np.maximum(
            fixed(images, N, ALPHA / 2),
            fixed(images, 2 * N, topped_up(base, 2 * N, alpha=ALPHA).levels[-1]),
        ),
    )


def main():
    """Compute, print and write the table."""
    parser = parser_of(__doc__)
    parser.add_argument("folder", help="of the logs")
    folder = parser.parse_args().folder
    with TABLE.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(("log", "rule", "samples", "ACR / full", "cells lost per 500"))
        for path in sorted(Path(folder).glob("*.tsv")):
            for name, rule, used, score, lost in rows_of(Images(path), path.stem.split("_")[0]):
                row = name, rule, f"{used:.0f}", f"{score:.4f}", f"{lost:.1f}"
                writer.writerow(row)
                print(*row, sep="\t", flush=True)


if __name__ == "__main__":
    main()
