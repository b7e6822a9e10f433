"""What radius loss, a budget and a reserve save or cost, on published logs.

Run `python -m benchmarks.allocation FOLDER_WITH_LOGS` from the root of the repository: it takes
some minutes and writes benchmarks/results/allocation.tsv. A log says which radius CERTIFY gave
each image, and so which count it had: p_A is drawn from the posterior of that count. It does not
name the runner-up, which gets 0.6 (1 - p_A) here. Seeds are fixed.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from tcertify.certificates import certify_votes
from tcertify.logs.audit import smallest_counts
from tcertify.logs.tsv import read_log
from tcertify.statistics.allocation import chance_per_sample, is_near_full, next_target
from tcertify.statistics.reserve import reserved, topped_up
from tcertify.statistics.stopping import Progress, Schedule, approximate_lower, decide
from tcertify.votes import Votes

TABLE = Path(__file__).parent / "results/allocation.tsv"
N, ALPHA, RIVAL, STEP, AT_ONCE = 100_000, 0.001, 0.6, 0.25, 16
IMAGES = 500


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
        for look in sorted({*looks, *Schedule.geometric(N, ALPHA).looks}):
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
    """Radii of a run of n samples an image."""
    counts = images.path((n,))[0]
    return certify_votes(
        votes_of(counts, n), sigma=images.sigma, alpha=alpha, method="joint"
    ).radius


def near_full(images, loss, wanted):
    """(samples, radius) of each image, stopped near the full radius or when certifying is out."""
    schedule = Schedule.geometric(N, ALPHA)
    path, size = images.path(schedule.looks), len(images.p_a)
    used, radius = np.zeros(size), np.zeros(size)
    rows, last = np.arange(size), len(schedule.looks) - 1
    for index, look in enumerate(schedule.looks):
        votes = votes_of(path[index][rows], look)
        guess = (
            images.sigma / 2 * approximate_lower(votes.k_a, votes.k_b, look, schedule.levels[index])
        )
        rule = {"schedule": schedule, "sigma": images.sigma, "loss": loss}
        worth = is_near_full(votes, np.maximum(radius[rows], guess), **rule) | (index == last)
        found = certify_votes(
            votes[worth], sigma=images.sigma, alpha=schedule.levels[index], method="joint"
        ).radius
        radius[rows[worth]] = np.maximum(radius[rows[worth]], found)
        out = decide(
            votes.counts, 0, index, schedule=schedule, sigma=images.sigma, radii=[0.0],
            invalid=votes.invalid, wanted=wanted[rows],
            so_far=Progress(radius[rows], np.full(len(rows), -1), np.zeros(len(rows), bool)),
        )  # fmt: skip
        radius[rows] = out.radius
        done = is_near_full(votes, radius[rows], **rule) | (out.done & (out.radius == 0))
        done |= ~wanted[rows] | (index == last)
        used[rows[done]] = look
        rows = rows[~done]
    return used, radius


def budgeted(images, budget):
    """(samples, radius) when the next samples go where a cell is likeliest to change per sample."""
    schedule = Schedule.geometric(N, ALPHA)
    path, size = images.path(schedule.looks), len(images.p_a)
    looks, at, left = np.array(schedule.looks), np.full(size, -1), budget
    radius, index = np.zeros(size), np.full(size, np.inf)
    while True:
        rows = np.argsort(-index, kind="stable")[:AT_ONCE]
        rows = rows[index[rows] > 0]
        cost = np.cumsum(looks[at[rows] + 1] - np.where(at[rows] >= 0, looks[at[rows]], 0))
        rows = rows[cost <= left]
        if not len(rows):
            return np.where(at >= 0, looks[at], 0), radius
        left -= cost[len(rows) - 1]
        at[rows] += 1
        votes = votes_of(path[at[rows], rows], looks[at[rows]])
        out = decide(
            votes.counts, 0, at[rows], schedule=schedule, sigma=images.sigma, radii=images.radii,
            invalid=votes.invalid,
            so_far=Progress(radius[rows], np.full(len(rows), -1), np.zeros(len(rows), bool)),
        )  # fmt: skip
        radius[rows] = out.radius
        index[rows] = np.where(
            out.done,
            0.0,
            chance_per_sample(
                votes,
                at[rows],
                next_target(out.radius, images.radii),
                schedule=schedule,
                sigma=images.sigma,
            ),
        )


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
    everything = np.ones(len(full), dtype=bool)
    for loss in (0.02, 0.05, 0.1):
        for label, wanted in (("all", everything), ("right answers", images.correct)):
            used, radius = near_full(images, loss, wanted)
            yield (
                name,
                f"radius loss {loss:g}, {label}",
                used.mean(),
                *summary(images, radius, full),
            )
            if loss == 0.05 and label == "all":
                n = round(used.mean())
                yield name, "fixed n of that cost", n, *summary(images, fixed(images, n), full)
    for mean in (1_000, 3_000, 10_000):
        used, radius = budgeted(images, mean * len(full))
        yield name, f"budget {mean:,} an image", used.mean(), *summary(images, radius, full)
        yield name, "fixed n of that cost", mean, *summary(images, fixed(images, mean), full)
    keep = reserved(N, ALPHA, 0.5)
    yield name, "full run at half of alpha", N, *summary(images, fixed(images, N, ALPHA / 2), full)
    top = topped_up(Schedule.single(N, ALPHA / 2), 2 * N, alpha=ALPHA).levels[-1]
    assert keep.alpha == ALPHA / 2
    yield name, "topped up to 2 n", 2 * N, *summary(images, fixed(images, 2 * N, top), full)


def main(folder):
    """Compute, print and write the table."""
    with TABLE.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(("log", "rule", "samples", "ACR / full", "cells lost per 500"))
        for path in sorted(Path(folder).glob("*.tsv")):
            for name, rule, used, score, lost in rows_of(Images(path), path.stem.split("_")[0]):
                row = name, rule, f"{used:.0f}", f"{score:.4f}", f"{lost:.1f}"
                writer.writerow(row)
                print(*row, sep="\t", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
