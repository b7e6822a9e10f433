"""The paper's study in miniature: Basic, SmoothAdv, ADRE_REG and ADRE_ADV on real digits.

``make study`` trains a small network by each method, with several noise levels, weights of the
regulariser and seeds, certifies every test image from one set of counts with CERTIFY and with the
joint bound, and writes ``study.json`` (every run), ``study.md`` (the tables) and ``study.png`` into
benchmarks/results.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn
from tqdm import tqdm

from adre_train.recipe import Recipe
from adre_train.train import train
from tcertify import certify_counts
from tcertify.classifiers import Classifier
from tcertify.data import digits
from tcertify.sampling import ESTIMATION, SELECTION, GaussianNoise, Sampler

SIGMAS = (0.25, 0.5, 1.0)
LAMS = (0.1, 0.3)  # the ends of the paper's grid
SHOWN_LAM = 0.3
RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
METHODS = ("certify", "joint")
GRID = [i / 20 for i in range(51)]
ALPHA, N0, N = 0.001, 100, 2000

BASIC = Recipe(epochs=20, batch=64, lr=0.05, warmup=1, k=1, lam=0.0)
ATTACK: dict[str, Any] = {"steps": 2, "eps": 0.25, "eps_warmup": 5}


@dataclass(frozen=True)
class Arm:
    """One way of training at one noise level."""

    name: str
    recipe: Recipe


def arms() -> list[Arm]:
    """Return the study's arms: the methods at every noise level, then what is only checked."""
    main = [
        Arm(name, dataclasses.replace(BASIC, sigma=sigma, **settings))
        for sigma in SIGMAS
        for name, settings in _methods().items()
    ]
    checked = {
        "floor 0": {"sigma": 0.25, "floor": 0.0},
        "floor 1e-3": {"sigma": 0.25, "floor": 1e-3},
        "floor 1e-1": {"sigma": 0.25, "floor": 0.1},
        "radius, lam 0.3": {"sigma": 0.5, "risk": "radius"},
        "radius, lam 3": {"sigma": 0.5, "risk": "radius", "lam": 3.0},
        "stability, lam 1": {"sigma": 0.5, "risk": "stability", "lam": 1.0},
    }
    base = dataclasses.replace(BASIC, k=8, lam=0.3)
    return main + [Arm(n, dataclasses.replace(base, **change)) for n, change in checked.items()]


def _methods() -> dict[str, dict[str, Any]]:
    return {
        "Basic": {},
        "Basic, k 8": {"k": 8},
        "SmoothAdv": {"k": 8, **ATTACK},
        **{f"ADRE_REG, lam {lam}": {"k": 8, "lam": lam} for lam in LAMS},
        **{f"ADRE_ADV, lam {lam}": {"k": 8, "lam": lam, **ATTACK} for lam in LAMS},
    }


class SmallNet(nn.Sequential):
    """A convolutional network of 18,346 parameters that trains in seconds."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 4 * 4, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )


def run(job: tuple[Arm, int, int]) -> dict[str, Any]:
    """Train one arm with one seed and certify the test images; return the run's row."""
    arm, seed, samples = job
    torch.set_num_threads(1)
    started = time.process_time()
    recipe = dataclasses.replace(arm.recipe, seed=seed)
    torch.manual_seed(seed)
    network = SmallNet()
    with tempfile.TemporaryDirectory() as folder:
        train(network, digits.load("train"), recipe, Path(folder))
    trained = time.process_time()
    test = digits.load("test")
    classifier = Classifier(network, test.num_classes)
    sampler = Sampler(classifier, GaussianNoise(recipe.sigma))
    ids = range(len(test))
    top = sampler.count(test.images, ids, 0, N0, SELECTION)[:, :-1].argmax(1)
    votes = sampler.count(test.images, ids, 0, samples, ESTIMATION)
    row = {
        "arm": arm.name,
        "sigma": recipe.sigma,
        "seed": seed,
        "training_s": round(trained - started, 2),
        "certifying_s": round(time.process_time() - trained, 2),
        "margin": _margin(network, test.images),
    }
    for method in METHODS:
        result = certify_counts(
            votes[:, :-1], top, sigma=recipe.sigma, alpha=ALPHA, method=method, invalid=votes[:, -1]
        )
        radius = np.where(result.predicted == test.labels.numpy(), result.radius, -1.0)
        row[method] = {
            "certified": [round(float((radius >= r).mean()), 4) for r in GRID],
            "average_radius": round(float(radius.clip(0).mean()), 5),
        }
    return row


def _margin(network: nn.Module, images: torch.Tensor) -> float:
    """Return the mean distance between an image's two largest logits, without noise."""
    with torch.no_grad():
        best = network(images).topk(2).values
    return round(float((best[:, 0] - best[:, 1]).mean()), 2)


def compare(rows: Sequence[dict[str, Any]], method: str, radius: float | None) -> list[list[str]]:
    """Return a table row for each pair of arms that differ in the regulariser alone, or also in k:
    the mean difference over seeds, its 95 % interval, and the paired t-test's p with Holm's
    correction. `radius` None compares average radii, a number the certified accuracy there.
    """
    pairs = [
        (sigma, f"{kind}, lam {lam}", base)
        for sigma in SIGMAS
        for kind, bases in (("ADRE_REG", ("Basic", "Basic, k 8")), ("ADRE_ADV", ("SmoothAdv",)))
        for base in bases
        for lam in LAMS
    ]
    tests = [
        stats.ttest_rel(*(_by_seed(rows, name, sigma, method, radius) for name in (arm, base)))
        for sigma, arm, base in pairs
    ]
    adjusted = holm([float(test.pvalue) for test in tests])
    table = []
    for (sigma, arm, base), test, p in zip(pairs, tests, adjusted, strict=True):
        interval = test.confidence_interval(0.95)
        middle = (interval.low + interval.high) / 2
        change = f"{middle:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"
        table.append([f"{sigma}", arm, base, change, f"{test.pvalue:.1e}", f"{p:.1e}"])
    return table


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values: all those below alpha hold together at level alpha."""
    order = np.argsort(p_values)
    scaled = np.array(p_values)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(scaled).clip(max=1)
    return [float(p) for p in adjusted]


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Return the study's tables in Markdown."""
    parts = []
    names = list(dict.fromkeys((row["sigma"], row["arm"]) for row in rows))
    for method in METHODS:
        head = ["sigma", "training", "average radius", *(f"r = {r:g}" for r in RADII)]
        body = [
            [
                f"{sigma}",
                name,
                _spread(_by_seed(rows, name, sigma, method, None), 4),
                *(_spread(_by_seed(rows, name, sigma, method, r), 3) for r in RADII),
            ]
            for sigma, name in names
        ]
        title = f"Certified accuracy by radius, {method}: mean and standard deviation over seeds"
        parts += [f"### {title}", _markdown(head, body)]
    for what, radius in (("average radius", None), ("certified accuracy at radius 0", 0.0)):
        head = ["sigma", "training", "against", "difference [95 %]", "p", "p, Holm"]
        title = f"Change of the {what} (joint), paired by seed"
        parts += [f"### {title}", _markdown(head, compare(rows, "joint", radius))]
    head = ["sigma", "training", "margin of logits", "training, CPU s", "certifying, CPU s"]
    body = [
        [
            f"{sigma}",
            name,
            *(_mean(rows, sigma, name, key) for key in ("margin", "training_s", "certifying_s")),
        ]
        for sigma, name in names
    ]
    parts += ["### Margins and cost, mean over seeds", _markdown(head, body)]
    return "\n\n".join(parts) + "\n"


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw certified accuracy by radius: mean over seeds, and the band from least to most."""
    import matplotlib.pyplot as plt

    shown = ["Basic", "Basic, k 8", "SmoothAdv"]
    shown += [f"{kind}, lam {SHOWN_LAM}" for kind in ("ADRE_REG", "ADRE_ADV")]
    figure, axes = plt.subplots(2, len(SIGMAS), figsize=(12, 7), sharey=True, layout="constrained")
    for line, method in zip(axes, METHODS, strict=True):
        for axis, sigma in zip(line, SIGMAS, strict=True):
            for name in shown:
                curves = [
                    row[method]["certified"]
                    for row in rows
                    if (row["arm"], row["sigma"]) == (name, sigma)
                ]
                axis.plot(GRID, np.mean(curves, axis=0), label=name, linewidth=1)
                axis.fill_between(GRID, np.min(curves, 0), np.max(curves, 0), alpha=0.2)
            axis.set(title=f"{method}, sigma = {sigma}", xlim=(0, 1.25), ylim=(0, 1))
    axes[0, 0].legend()
    figure.supxlabel("l2 radius")
    figure.supylabel("certified accuracy")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def write(rows: Sequence[dict[str, Any]], made: dict[str, Any], out: Path) -> None:
    """Write the runs, the tables and the picture, with how they were made."""
    out.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(row) for row in rows)
    head = f'"made": {json.dumps(made)},\n"radii": {json.dumps(GRID)}'
    (out / "study.json").write_text(f'{{{head},\n"runs": [\n{lines}\n]}}\n')
    facts = "\n".join(f"- {key}: {value}" for key, value in made.items())
    (out / "study.md").write_text(f"# The study on digits\n\n{facts}\n\n{report(rows)}")
    draw(rows, out / "study.png")


@click.command()
@click.option("--seeds", default=5, show_default=True, help="Seeds for each arm; at least 2.")
@click.option("--samples", default=N, show_default=True, help="Estimation samples an image.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("benchmarks/results"),
    show_default=True,
    help="Folder for study.json, study.md and study.png.",
)
def main(seeds: int, samples: int, out: Path) -> None:
    """Run the study, two trainings at a time on two cores."""
    started = time.perf_counter()
    jobs = [(arm, seed, samples) for seed in range(seeds) for arm in arms()]
    workers = os.cpu_count() or 1
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        rows = list(tqdm(pool.map(run, jobs), "runs", len(jobs)))
    made = {
        "command": f"python benchmarks/study.py --seeds {seeds} --samples {samples}",
        "commit": _commit(),
        "device": f"{workers} cores of {_processor()}, torch {torch.__version__}",
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "cpu_minutes": round(sum(row["training_s"] + row["certifying_s"] for row in rows) / 60, 1),
        "settings": f"alpha = {ALPHA}, n0 = {N0}, n = {samples}, {len(digits.load('test'))} images",
    }
    write(rows, made, out)


def _by_seed(
    rows: Iterable[dict[str, Any]], arm: str, sigma: float, method: str, radius: float | None
) -> NDArray[np.float64]:
    chosen = [row for row in rows if (row["arm"], row["sigma"]) == (arm, sigma)]
    chosen.sort(key=lambda row: int(row["seed"]))
    if radius is None:
        return np.array([row[method]["average_radius"] for row in chosen])
    return np.array([row[method]["certified"][GRID.index(radius)] for row in chosen])


def _mean(rows: Iterable[dict[str, Any]], sigma: float, arm: str, key: str) -> str:
    chosen = [row[key] for row in rows if (row["sigma"], row["arm"]) == (sigma, arm)]
    return f"{np.mean(chosen):.1f}"


def _spread(values: NDArray[np.float64], digits: int) -> str:
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def _markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _commit() -> str:
    git = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _processor() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    names = [line.split(":")[1].strip() for line in info.splitlines() if "model name" in line]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
