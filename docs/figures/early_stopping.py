"""How many samples early stopping takes on published logs, and how often it changes the table.

    python docs/figures/early_stopping.py FOLDER_WITH_LOGS

prints a table, then what may not be read from a run that stopped early (average certified radius
and abstentions beside those of the full run), then what an exact recursion over the looks would
save, and draws docs/figures/early_stopping.png. A log
says which radius CERTIFY gave each image, and so which count it had: p_A is drawn from the
posterior of that count. The log does not say who the runner-up was. Two cases are shown: the worst
one, in which one rival has all that A has not (p_B = 1 - p_A), and a plausible one, p_B = 0.6 (1 -
p_A). An abstention hides its count; its p_A is drawn between 0.3 and 0.5. All draws have fixed
seeds.
"""

import math
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.special import ndtr
from scipy.stats import binom

from tcertify.certificates import certify_counts
from tcertify.logs.audit import smallest_counts
from tcertify.logs.tsv import read_log
from tcertify.statistics.stopping import Progress, Schedule, decide

N, ALPHA, IMAGES, PATHS = 100_000, 0.001, 500, 3
SCHEDULE = Schedule.geometric(N, ALPHA)

# label, method, right answers only
CASES = (
    ("CERTIFY", "certify", False),
    ("joint", "joint", False),
    ("joint, right answers only", "joint", True),
)


def images_of(log, sigma):
    """p_A, and whether the prediction was right, of about IMAGES evenly spaced images,
    each of them PATHS times.
    """
    rng = np.random.default_rng(1)
    rows = np.arange(len(log.idx))[:: max(1, len(log.idx) // IMAGES)]
    count = smallest_counts(log, sigma=sigma, n=N, alpha=ALPHA)[rows]
    p_a = rng.beta(count + 0.5, N - count + 0.5)
    p_a = np.where(log.predict[rows] < 0, rng.uniform(0.3, 0.5, len(rows)), p_a)
    return np.tile(p_a, PATHS), np.tile(log.correct[rows], PATHS)


def votes_at_all_looks(p_a, p_b):
    """{samples: votes (M, 2)} along one path of each image."""
    rng = np.random.default_rng(2)
    votes, seen, path = np.zeros((len(p_a), 2), dtype=np.int64), 0, {}
    for look in SCHEDULE.looks:
        a = rng.binomial(look - seen, p_a)
        b = rng.binomial(look - seen - a, np.minimum(1, p_b / (1 - p_a)))
        votes = votes + np.stack([a, b], axis=1)
        path[look], seen = votes, look
    return path


def stopped(path, radii, sigma, method, wanted, schedule=SCHEDULE):
    """(samples used, running best radius) of each image."""
    size = len(path[N])
    used, radius, open_rows, so_far = np.zeros(size), np.zeros(size), np.arange(size), None
    for index, look in enumerate(schedule.looks):
        votes = path[look][open_rows]
        progress = decide(
            votes,
            0,
            index,
            schedule=schedule,
            sigma=sigma,
            radii=radii,
            method=method,
            invalid=look - votes.sum(1),
            wanted=wanted[open_rows],
            so_far=so_far,
        )
        used[open_rows], radius[open_rows] = look, progress.radius
        left = ~progress.done
        open_rows = open_rows[left]
        so_far = Progress(progress.radius[left], progress.look[left], progress.done[left])
        if not open_rows.size:
            break
    return used, radius


def cells(radius, radii):
    """Which cell of the grid each radius falls in; an abstention is below the first."""
    return np.where(radius > 0, np.searchsorted(radii, radius, side="right"), 0)


def ever_certified(schedule, p):
    """P(some look's bound of p_A reaches p) at p_A = p, by recursion over (look, N_A)."""
    alive, low, seen, reached = np.ones(1), 0, 0, 0.0
    for n, level in zip(schedule.looks, schedule.levels, strict=True):
        step = n - seen
        reach = 9 * math.sqrt(step * p * (1 - p)) + 20
        first, last = max(0, int(step * p - reach)), min(step, int(step * p + reach))
        alive = np.convolve(alive, binom.pmf(np.arange(first, last + 1), step, p))
        low, seen = low + first, n
        counts = low + np.arange(len(alive))
        inside = binom.sf(counts - 1, n, p) > level  # where the bound stays below p
        reached += alive[~inside].sum()
        alive = alive[inside]
        left_out = min(int(np.searchsorted(np.cumsum(alive), 1e-12)), len(alive) - 1)
        reached += alive[:left_out].sum()  # so that the sum is above the probability
        alive, low = alive[left_out:], low + left_out
    return reached


def stretched(radii, sigma):
    """Half of alpha for the last look, and all levels as much larger as every target allows."""
    schedule, low, high = Schedule.geometric(N, ALPHA, final_share=0.5), 1.0, 2.0
    for _ in range(10):
        middle = (low + high) / 2
        tried = Schedule(schedule.looks, tuple(middle * level for level in schedule.levels))
        worst = max(ever_certified(tried, p) for p in ndtr(np.asarray(radii) / sigma))
        low, high = (middle, high) if worst <= ALPHA else (low, middle)
    return Schedule(schedule.looks, tuple(low * level for level in schedule.levels))


def recursion(folder):
    """Print what the union bound leaves of alpha, and the samples that CERTIFY would save."""
    targets = (0.0, 0.5, 1.0, 2.0, 3.0, 3.5)
    spent = [ever_certified(SCHEDULE, p) / ALPHA for p in ndtr(targets)]
    assert max(spent) <= 1
    print("\n| radius / sigma | " + " | ".join(f"{z:g}" for z in targets) + " |")
    print("|---" * (len(targets) + 1) + "|")
    print("| spent of alpha | " + " | ".join(f"{share:.3f}" for share in spent) + " |")
    print("\n| log | grid | union bound | recursion | fewer |\n|---|---|---|---|---|")
    for file in sorted(Path(folder).glob("*.tsv")):
        sigma = float(file.stem.rpartition("_")[2])
        p_a, _ = images_of(read_log(file), sigma)
        path, everything = votes_at_all_looks(p_a, 1 - p_a), np.ones(len(p_a), dtype=bool)
        top, lost = np.zeros(len(p_a), dtype=int), N - path[N].sum(1)
        full = certify_counts(
            path[N], top, sigma=sigma, alpha=ALPHA, method="certify", invalid=lost
        )
        for step in (0.25, 0.5):
            radii, row, means = np.arange(0, 4.5 * sigma, step), [], []
            for schedule in (SCHEDULE, stretched(radii, sigma)):
                used, radius = stopped(path, radii, sigma, "certify", everything, schedule)
                changed = cells(radius, radii) != cells(full.radius, radii)
                means.append(used.mean())
                row.append(f"{used.mean():,.0f} ({500 * changed.mean():.1f})")
            name = f"{file.stem.split('_')[0]}, sigma {sigma:g} | {step:g}"
            fewer = f"{100 * (1 - means[1] / means[0]):.1f} %"
            print(f"| {name} | " + " | ".join((*row, fewer)) + " |", flush=True)


def main(folder):
    """Print the table and draw the picture."""
    print("| log | grid | p_B / (1 - p_A) | " + " | ".join(label for label, *_ in CASES) + " |")
    print("|---|---|---|" + "---|" * len(CASES))
    bars, unread = {}, []
    for file in sorted(Path(folder).glob("*.tsv")):
        sigma = float(file.stem.rpartition("_")[2])
        p_a, correct = images_of(read_log(file), sigma)
        everything = np.ones(len(p_a), dtype=bool)
        for share in (1.0, 0.6):
            path = votes_at_all_looks(p_a, share * (1 - p_a))
            full = {
                method: certify_counts(
                    path[N],
                    np.zeros(len(p_a), dtype=int),
                    sigma=sigma,
                    alpha=ALPHA,
                    method=method,
                    invalid=N - path[N].sum(1),
                ).radius
                for method in ("certify", "joint")
            }
            for step in (0.25, 0.5):
                radii = np.arange(0, 4.5 * sigma, step)
                row = []
                for label, method, right_only in CASES:
                    wanted = correct if right_only else everything
                    used, radius = stopped(path, radii, sigma, method, wanted)
                    changed = cells(radius, radii) != cells(full[method], radii)
                    fewer, per_500 = N / used.mean(), 500 * (changed & wanted).mean()
                    row.append(f"{used.mean():,.0f} ({fewer:.1f} x, {per_500:.1f})")
                    if label == "joint":
                        name = f"{file.stem.split('_')[0]}, {share:g}, {step:g}"
                        unread.append((name, correct, radius, full[method]))
                    if step == 0.25 and share < 1:
                        bars.setdefault(label, {})[file.stem.split("_")[0]] = fewer
                print(
                    f"| {file.stem.split('_')[0]}, sigma {sigma:g} | {step:g} "
                    f"| {share:g} | " + " | ".join(row) + " |",
                    flush=True,
                )
    names = ("ACR, full", "ACR, stopped", "abstained, full", "abstained, stopped")
    print("\n| " + " | ".join(("log, p_B / (1 - p_A), grid", *names)) + " |")
    print("|---|---|---|---|---|")
    for name, right, early, whole in unread:
        acr = ((radius * right).mean() for radius in (whole, early))
        shown = *acr, (whole == 0).mean(), (early == 0).mean()
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in shown) + " |")
    recursion(folder)
    draw(bars)


def draw(bars):
    """One group of bars per log: how many times fewer samples."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(bars)
    for offset, (label, values) in enumerate(bars.items()):
        axes.bar(np.arange(len(values)) + offset * width, values.values(), width, label=label)
    axes.set_xticks(np.arange(len(values)) + 0.4 - width / 2, values.keys())
    axes.set_ylabel("times fewer than 100,000 samples")
    axes.set_title("Early stopping, grid of radii 0, 0.25, 0.5, ..., rival 0.6 (1 - p_A)")
    axes.legend(fontsize="small")
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    main(sys.argv[1])
