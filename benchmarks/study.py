"""The paper's study in miniature, on real images: scikit-learn's digits, and Fashion-MNIST.

``make study`` and ``make study-fashion`` train a small network by each method, at several noise
levels and with several seeds, and certify the same test images of each from one set of votes by
CERTIFY, T-CERTIFY and the joint bound. What a method leaves to choose (lam, the attack's radius) is
chosen at each noise level by a validation split of the training images, with a seed that the study
does not use; ADRE_ADV takes the attack's radius that was chosen for SmoothAdv. The test images are
looked at once. Every training is kept with its votes in a file of its own, so that a study that was
cut goes on, takes up more seeds, or is only drawn again. Four files come of it: ``.json`` (every
run), ``.md`` (the tables) and two ``.png``, of the methods of training and of certification.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn
from tqdm import tqdm

from adre_train.batches import held_out
from adre_train.recipe import Recipe, load
from adre_train.train import train
from benchmarks import commit, markdown, processor
from tcertify import certify_counts, data
from tcertify._files import complete
from tcertify.classifiers import Classifier
from tcertify.classifiers.networks import FashionNet
from tcertify.data import TensorDataset
from tcertify.sampling import ESTIMATION, SELECTION, VALIDATION, GaussianNoise, Sampler

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
METHODS = ("certify", "t-certify", "joint")
GRID = [i / 20 for i in range(51)]
ALPHA, N0 = 0.001, 100
TUNING_SEED = 1000

ARMS = (
    "Basic",
    "Basic, all copies",
    "stability",
    "SmoothAdv",
    "ADRE_REG",
    "ADRE_REG, floor 0",
    "ADRE_REG, l_per of one copy",
    "ADRE_ADV",
    "ADRE_ADV, floor 0",
    "signed radius",
    "radius (eq. 10)",
)

#: What is compared: an arm, and the arm that it differs from in one thing.
PAIRS = (
    ("ADRE_REG", "Basic"),
    ("ADRE_REG", "Basic, all copies"),
    ("ADRE_ADV", "SmoothAdv"),
    ("SmoothAdv", "ADRE_REG"),
    ("signed radius", "ADRE_REG"),
    ("radius (eq. 10)", "ADRE_REG"),
    ("ADRE_REG, floor 0", "ADRE_REG"),
    ("ADRE_ADV, floor 0", "ADRE_ADV"),
    ("ADRE_REG, l_per of one copy", "ADRE_REG"),
)
SHOWN = ("Basic", "Basic, all copies", "SmoothAdv", "ADRE_REG", "ADRE_ADV", "signed radius")


def digits_network() -> nn.Module:
    """Return a convolutional network for 8x8 pixels that trains in seconds: 18,346 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


@dataclass(frozen=True)
class Study:
    """A data set, how it is trained on, and how much of it is certified how often."""

    dataset: str
    file: str
    recipe: Recipe
    sigmas: tuple[float, ...]
    seeds: int
    images: int
    samples: int
    network: Callable[[], nn.Module]
    #: What is chosen from: the paper's grid of lam, without the middle; that of the radius, which
    #: is on another scale; and the attack's radius.
    lams: tuple[float, ...] = (0.1, 0.3)
    radius_lams: tuple[float, ...] = (1.0, 3.0)
    eps: tuple[float, ...] = (0.25, 0.5, 1.0)


STUDIES = {
    "digits": Study(
        dataset="digits",
        file="study",
        recipe=Recipe(epochs=20, batch=64, lr=0.05, warmup=1, k=8),
        sigmas=(0.25, 0.5, 1.0),
        seeds=10,
        images=364,
        samples=2000,
        network=digits_network,
    ),
    "fashion-mnist": Study(
        dataset="fashion-mnist",
        file="study_fashion",
        recipe=load("fashion-mnist"),
        sigmas=(0.25, 0.5),
        seeds=3,
        images=500,
        samples=1000,
        network=FashionNet,
    ),
}


@dataclass(frozen=True)
class Arm:
    """One way of training at one noise level."""

    name: str
    recipe: Recipe


@dataclass(frozen=True)
class Job:
    """A training to do, or to find done in `folder`; `tuning` certifies validation images."""

    study: Study
    arm: Arm
    seed: int
    tuning: bool
    folder: Path
    commit: str

    @property
    def path(self) -> Path:
        """Where the run is kept: its name tells everything that its votes depend on, the recipe's
        settings that are not the usual ones among it.
        """
        study, recipe = self.study, self.arm.recipe
        usual = dataclasses.asdict(Recipe())
        changes = {k: v for k, v in dataclasses.asdict(recipe).items() if v != usual[k]}
        key = [study.dataset, study.network.__name__, study.images, study.samples, changes]
        digest = hashlib.sha256(json.dumps([*key, self.seed, self.tuning]).encode()).hexdigest()
        arm = re.sub(r"\W+", "-", self.arm.name).strip("-")
        kind = "tuning" if self.tuning else f"seed-{self.seed}"
        where = f"{study.dataset}-{recipe.sigma:g}-{arm}-{kind}-{digest[:12]}"
        return self.folder / f"{where}.npz"


@dataclass(frozen=True, eq=False)
class Run:
    """A trained arm: what it cost, and the votes of the images that it was certified on."""

    arm: str
    sigma: float
    seed: int
    training_s: float
    certifying_s: float
    margin: float
    labels: NDArray[np.int64]
    top: NDArray[np.int64]
    votes: NDArray[np.int64]
    commit: str = ""

    def keep(self, path: Path) -> None:
        """Write the run, whole or not at all."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        with complete(path) as file:
            np.savez_compressed(file, **fields)

    @classmethod
    def kept(cls, path: Path) -> Run:
        """Read a run that `keep` wrote."""
        with np.load(path) as arrays:
            values = {name: arrays[name] for name in arrays.files}
        return cls(**{name: value if value.ndim else value[()] for name, value in values.items()})

    @cached_property
    def _radii(self) -> dict[str, NDArray[np.float64]]:
        return {}

    def radius(self, method: str) -> NDArray[np.float64]:
        """Return the certified radius of each image, -1 where the answer is wrong or none."""
        if method not in self._radii:
            result = certify_counts(
                self.votes[:, :-1],
                self.top,
                sigma=self.sigma,
                alpha=ALPHA,
                method=method,
                invalid=self.votes[:, -1],
            )
            right = result.predicted == self.labels
            self._radii[method] = np.where(right, result.radius, -1.0)
        return self._radii[method]


def candidates(study: Study, sigma: float) -> dict[str, list[Recipe]]:
    """Return the methods at a noise level, each with the settings to choose from; without
    ADRE_ADV, whose attack is SmoothAdv's.
    """
    grids: dict[str, list[dict[str, Any]]] = {
        "Basic": [{"lam": 0.0, "k": 1}],
        "Basic, all copies": [{"lam": 0.0}],
        "stability": [{"risk": "stability", "lam": 1.0}],
        "SmoothAdv": [
            {"lam": 0.0, "steps": 2, "eps": eps, "eps_warmup": study.recipe.epochs / 4}
            for eps in study.eps
        ],
        "ADRE_REG": [{"lam": lam} for lam in study.lams],
        "ADRE_REG, l_per of one copy": [{"lam": lam, "per": "single"} for lam in study.lams],
        "signed radius": [{"risk": "signed-radius", "lam": lam} for lam in study.radius_lams],
        "radius (eq. 10)": [{"risk": "radius", "lam": lam} for lam in study.radius_lams],
    }
    return {
        name: [dataclasses.replace(study.recipe, sigma=sigma, **settings) for settings in grid]
        for name, grid in grids.items()
    }


def run(job: Job) -> Run:
    """Return the run of a job: the one that is kept, or a new one, which is kept."""
    if not job.path.exists():
        made = perform(job)
        job.path.parent.mkdir(parents=True, exist_ok=True)
        made.keep(job.path)
    return Run.kept(job.path)


def perform(job: Job) -> Run:
    """Train one arm with one seed and certify test images, or validation images to tune by."""
    study, arm, seed, tuning = job.study, job.arm, job.seed, job.tuning
    torch.set_num_threads(1)
    started = time.process_time()
    images = _in_memory(study, "train")
    changes: dict[str, Any] = {"seed": seed}
    if tuning:  # holds the validation images out; what it certifies by itself is not used
        changes |= {
            "validate_every": arm.recipe.epochs,
            "validate_images": 1,
            "validate_samples": 100,
        }
    torch.manual_seed(seed)
    trained_net = study.network()
    with tempfile.TemporaryDirectory() as folder:
        train(trained_net, images, dataclasses.replace(arm.recipe, **changes), Path(folder))
    trained = time.process_time()
    certified = images if tuning else _in_memory(study, "test")
    every = held_out(len(images)) if tuning else np.arange(len(certified))
    ids = every[np.linspace(0, len(every) - 1, min(study.images, len(every))).astype(np.int64)]
    x = torch.stack([certified[int(i)][0] for i in ids])
    noise = GaussianNoise(arm.recipe.sigma)
    sampler = Sampler(Classifier(trained_net, certified.num_classes), noise)
    streams = (VALIDATION, VALIDATION) if tuning else (SELECTION, ESTIMATION)
    first = N0 if tuning else 0
    return Run(
        arm=arm.name,
        sigma=arm.recipe.sigma,
        seed=seed,
        training_s=round(trained - started, 2),
        top=sampler.count(x, ids, 0, N0, streams[0])[:, :-1].argmax(1),
        votes=sampler.count(x, ids, first, first + study.samples, streams[1]),
        labels=certified.labels[torch.from_numpy(ids)].numpy(),
        margin=_margin(trained_net, x),
        certifying_s=round(time.process_time() - trained, 2),
        commit=job.commit,
    )


def choose(study: Study, tune: Callable[[list[tuple[Arm, int]]], Iterable[Run]]) -> list[Arm]:
    """Return an arm for every method at every noise level, with the settings whose average radius
    by CERTIFY was largest on the validation split, and both ADRE arms without the floor.
    """
    grids = {(s, name): g for s in study.sigmas for name, g in candidates(study, s).items()}
    best = _best(grids, tune)
    attacked = {
        (s, "ADRE_ADV"): [dataclasses.replace(best[s, "SmoothAdv"], lam=lam) for lam in study.lams]
        for s in study.sigmas
    }
    best |= _best(attacked, tune)
    for s in study.sigmas:
        for name in ("ADRE_REG", "ADRE_ADV"):
            best[s, f"{name}, floor 0"] = dataclasses.replace(best[s, name], floor=0.0)
    return [Arm(name, best[s, name]) for s in study.sigmas for name in ARMS]


def _best(
    grids: dict[tuple[float, str], list[Recipe]],
    tune: Callable[[list[tuple[Arm, int]]], Iterable[Run]],
) -> dict[tuple[float, str], Recipe]:
    """Return the recipe of each grid that is best on the validation split."""
    asked = [Arm(n, r) for (_, n), grid in grids.items() for r in grid if len(grid) > 1]
    found = iter(tune([(arm, TUNING_SEED) for arm in asked]))
    best = {}
    for key, grid in grids.items():
        scores = [average_radius(next(found), "certify") for _ in grid] if len(grid) > 1 else [0.0]
        best[key] = grid[int(np.argmax(scores))]
    return best


def average_radius(made: Run, method: str) -> float:
    """Return the average certified radius of a run, wrong answers counted as 0."""
    return float(made.radius(method).clip(0).mean())


@dataclass(frozen=True)
class Difference:
    """The average radius of one arm less another's: its mean, what it varies by, and two tests."""

    mean: float
    low: float
    high: float
    over_images: float
    wins: str
    p_t: float
    p_sign: float


def compare(first: Sequence[Run], second: Sequence[Run], method: str) -> Difference:
    """Return the difference of two arms' average radii, paired by seed and by image.

    The interval and the t-test treat the seeds as a sample, as the exact sign test does, which
    supposes nothing of their distribution; arms that never differ are no evidence. `over_images` is
    the standard error that the choice of the images adds, from each image's difference averaged
    over the seeds.
    """
    gains = np.array(
        [
            a.radius(method).clip(0) - b.radius(method).clip(0)
            for a, b in zip(first, second, strict=True)
        ]
    )
    by_seed, by_image = gains.mean(1), gains.mean(0)
    low, high, p_t = 0.0, 0.0, 1.0
    if by_seed.any():
        test = stats.ttest_1samp(by_seed, 0.0)
        (low, high), p_t = test.confidence_interval(0.95), test.pvalue
    wins, losses = int((by_seed > 0).sum()), int((by_seed < 0).sum())
    return Difference(
        mean=float(by_seed.mean()),
        low=float(low),
        high=float(high),
        over_images=float(by_image.std(ddof=1) / np.sqrt(len(by_image))),
        wins=f"{wins}/{len(by_seed)}",
        p_t=float(p_t),
        p_sign=float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values: all those below alpha hold together at level alpha."""
    order = np.argsort(p_values)
    scaled = np.array(p_values)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(scaled).clip(max=1)
    return [float(p) for p in adjusted]


def report(runs: Sequence[Run]) -> str:
    """Return the study's tables in Markdown."""
    arms = _arms(runs)
    parts = []
    for method in METHODS:
        head = ["sigma", "training", "average radius", *(f"r = {r:g}" for r in RADII)]
        body = []
        for (sigma, name), made in arms.items():
            radii = np.array([one.radius(method) for one in made])
            shown = [_spread((radii >= r).mean(1), 3) for r in RADII]
            body.append([f"{sigma}", name, _spread(radii.clip(0).mean(1), 4), *shown])
        title = f"Certified accuracy by radius, {method}: mean and standard deviation over seeds"
        parts += [f"### {title}", markdown(head, body)]
    parts += [part for method in METHODS for part in _comparisons(arms, method)]
    head = ["sigma", "training", "margin of logits", "training, CPU s", "certifying, CPU s"]
    body = [
        [
            f"{sigma}",
            name,
            *(
                f"{np.mean([getattr(one, key) for one in made]):.1f}"
                for key in ("margin", "training_s", "certifying_s")
            ),
        ]
        for (sigma, name), made in arms.items()
    ]
    parts += ["### Margins and cost, mean over seeds", markdown(head, body)]
    return "\n\n".join(parts) + "\n"


def _comparisons(arms: dict[tuple[float, str], list[Run]], method: str) -> list[str]:
    sigmas = dict.fromkeys(sigma for sigma, _ in arms)
    pairs = [(sigma, *pair) for sigma in sigmas for pair in PAIRS]
    found = [compare(arms[s, name], arms[s, base], method) for s, name, base in pairs]
    columns = zip(
        pairs,
        found,
        *(holm([getattr(one, key) for one in found]) for key in ("p_t", "p_sign")),
        strict=True,
    )
    body = [
        [
            *(f"{sigma}", name, base),
            f"{one.mean:+.4f} [{one.low:+.4f}, {one.high:+.4f}]",
            *(f"{one.over_images:.4f}", one.wins, f"{one.p_t:.1e}", f"{p_t:.1e}"),
            *(f"{one.p_sign:.1e}", f"{p_sign:.1e}"),
        ]
        for (sigma, name, base), one, p_t, p_sign in columns
    ]
    head = ["sigma", "training", "against", "difference [95 % over seeds]", "± over images"]
    head += ["ahead", "p, t", "p, t, Holm", "p, sign", "p, sign, Holm"]
    title = f"Change of the average radius, {method}, paired by seed and image"
    return [f"### {title}", markdown(head, body)]


def draw(runs: Sequence[Run], path: Path, *, by_training: bool) -> None:
    """Draw certified accuracy by radius: mean over seeds, and the band from least to most.

    A panel compares the methods of training under one of certification, or the other way round.
    """
    import matplotlib.pyplot as plt

    arms = _arms(runs)
    sigmas = list(dict.fromkeys(sigma for sigma, _ in arms))
    trainings = [name for name in SHOWN if (sigmas[0], name) in arms]
    rows, lines = (METHODS, trainings) if by_training else (trainings, METHODS)
    size = {"figsize": (4 * len(sigmas), 3.3 * len(rows)), "sharey": True, "squeeze": False}
    figure, axes = plt.subplots(len(rows), len(sigmas), layout="constrained", **size)
    for across, row in zip(axes, rows, strict=True):
        for axis, sigma in zip(across, sigmas, strict=True):
            for line in lines:
                name, method = (line, row) if by_training else (row, line)
                radii = np.array([one.radius(method) for one in arms[sigma, name]])
                curves = (radii[:, :, None] >= GRID).mean(1)
                axis.plot(GRID, curves.mean(0), label=line, linewidth=1)
                axis.fill_between(GRID, curves.min(0), curves.max(0), alpha=0.2)
            axis.set(title=f"{row}, sigma = {sigma}", xlim=(0, 1.5), ylim=(0, 1))
    axes[0, 0].legend()
    figure.supxlabel("l2 radius")
    figure.supylabel("certified accuracy")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def write(
    study: Study, arms: Sequence[Arm], runs: Sequence[Run], made: dict[str, Any], out: Path
) -> None:
    """Write the runs, the tables and the pictures, with how they were made."""
    out.mkdir(parents=True, exist_ok=True)
    recipes = [{"arm": arm.name, **dataclasses.asdict(arm.recipe)} for arm in arms]
    scalars = ("arm", "sigma", "seed", "training_s", "certifying_s", "margin")
    content = {
        "made": made,
        "arms": recipes,
        "runs": [
            {key: np.asarray(getattr(one, key)).item() for key in scalars}
            | {method: round(average_radius(one, method), 5) for method in METHODS}
            for one in runs
        ],
    }
    (out / f"{study.file}.json").write_text(json.dumps(content, indent=0) + "\n")
    facts = "\n".join(f"- {key}: {value}" for key, value in made.items())
    title = f"# The study on {study.dataset}"
    text = f"{title}\n\n{facts}\n\n{_chosen(arms)}\n\n{report(runs)}"
    (out / f"{study.file}.md").write_text(text)
    draw(runs, out / f"{study.file}.png", by_training=True)
    draw(runs, out / f"{study.file}_bounds.png", by_training=False)


def _chosen(arms: Sequence[Arm]) -> str:
    keys = ("risk", "per", "k", "lam", "eps", "steps", "floor")
    body = [
        [f"{arm.recipe.sigma}", arm.name, *(f"{getattr(arm.recipe, key)}" for key in keys)]
        for arm in arms
    ]
    head = ["sigma", "training", *keys]
    return (
        f"### Settings, by the validation split where there is a choice\n\n{markdown(head, body)}"
    )


@click.command()
@click.argument("dataset", type=click.Choice(list(STUDIES)), default="digits")
@click.option("--seeds", type=click.IntRange(min=2), help="Seeds for each arm.")
@click.option("--samples", type=click.IntRange(min=1), help="Estimation samples per image.")
@click.option("--images", type=click.IntRange(min=1), help="Test images to certify.")
@click.option("--epochs", type=click.IntRange(min=2), help="Training epochs.")
@click.option("--sigma", "sigmas", type=float, multiple=True, help="Noise levels.")
@click.option("--lam", "lams", type=float, multiple=True, help="Weights of ADRE to choose from.")
@click.option(
    "--radius-lam", "radius_lams", type=float, multiple=True, help="Those of the radius as risk."
)
@click.option("--eps", type=float, multiple=True, help="Radii of the attack to choose from.")
@click.option("--workers", type=click.IntRange(min=1), default=os.cpu_count() or 1)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("benchmarks/results"),
    show_default=True,
    help="Folder for the study's four files.",
)
@click.option(
    "--runs",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("benchmarks/runs"),
    show_default=True,
    help="Folder that keeps the trainings with their votes; those that are there are not repeated.",
)
def main(
    dataset: str,
    seeds: int | None,
    samples: int | None,
    images: int | None,
    epochs: int | None,
    sigmas: tuple[float, ...],
    lams: tuple[float, ...],
    radius_lams: tuple[float, ...],
    eps: tuple[float, ...],
    workers: int,
    out: Path,
    folder: Path,
) -> None:
    """Run the study on DATASET, a training per core at a time, or what of it is not yet done."""
    asked: dict[str, Any] = {"seeds": seeds, "samples": samples, "images": images, "eps": eps}
    asked |= {"sigmas": sigmas, "lams": lams, "radius_lams": radius_lams}
    changes = {key: value for key, value in asked.items() if value}
    study = dataclasses.replace(STUDIES[dataset], **changes)
    if epochs is not None:
        study = dataclasses.replace(study, recipe=dataclasses.replace(study.recipe, epochs=epochs))
    checked_out, every = commit(), list[Run]()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:

        def runs_of(asked: list[tuple[Arm, int]], tuning: bool = False) -> list[Run]:
            jobs = [Job(study, arm, seed, tuning, folder, checked_out) for arm, seed in asked]
            found = list(tqdm(pool.map(run, jobs), "tuning" if tuning else "runs", len(jobs)))
            every.extend(found)
            return found

        arms = choose(study, partial(runs_of, tuning=True))
        runs = runs_of([(arm, seed) for seed in range(study.seeds) for arm in arms])
    made = {
        "command": " ".join(["python -m benchmarks.study", *sys.argv[1:]]),
        "commit": ", ".join(dict.fromkeys(str(one.commit) for one in every)),
        "device": f"{processor()}, a core for each run, torch {torch.__version__}",
        "cpu_minutes": round(sum(one.training_s + one.certifying_s for one in every) / 60, 1),
        "settings": f"alpha = {ALPHA}, n0 = {N0}, n = {study.samples}",
        "images": len(runs[0].labels),
    }
    write(study, arms, runs, made, out)


def _in_memory(study: Study, split: str) -> TensorDataset:
    loaded = data.load(study.dataset, split)
    assert isinstance(loaded, TensorDataset)
    return loaded


def _arms(runs: Iterable[Run]) -> dict[tuple[float, str], list[Run]]:
    """Return the runs of each arm at each noise level, by seed."""
    arms: dict[tuple[float, str], list[Run]] = {}
    for one in sorted(runs, key=lambda one: one.seed):
        arms.setdefault((one.sigma, one.arm), []).append(one)
    return arms


def _margin(net: nn.Module, images: torch.Tensor) -> float:
    """Return the mean distance between an image's two largest logits, without noise."""
    with torch.no_grad():
        best = net(images).topk(2).values
    return round(float((best[:, 0] - best[:, 1]).mean()), 2)


def _spread(values: NDArray[np.float64], digits: int) -> str:
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


if __name__ == "__main__":
    main()
