"""The training loop: from a network, images and a recipe to checkpoints."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

# torch loads this module at the first step of an optimiser, and its defaults then keep the process
# group: its threads outlive it and abort the process at exit. Loaded before there is a group, they
# keep nothing.
import torch.distributed.nn.functional
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD
from torch.utils.data import DataLoader
from tqdm import tqdm

from adre_train import checkpoints
from adre_train.attack import noisy_logits, pgd
from adre_train.augment import Augmented
from adre_train.recipe import Recipe
from adre_train.risk import adre_risk, radius_risk, stability
from tcertify.certificates import certify_counts
from tcertify.classifiers.checkpoints import check_state
from tcertify.classifiers.classifier import Classifier
from tcertify.data.dataset import Dataset
from tcertify.sampling.noise import ESTIMATION, SELECTION, GaussianNoise
from tcertify.sampling.sampler import Sampler

History = list[dict[str, Any]]


def train(
    network: nn.Module,
    data: Dataset,
    recipe: Recipe,
    folder: Path,
    *,
    test: Dataset | None = None,
    resume: bool = False,
    workers: int = 0,
    device: torch.device | str = "cpu",
) -> Path:
    """Train `network` on `data` as the recipe says; return the path of the last weights.

    After every epoch a checkpoint and ``metrics.csv`` are written into `folder`. With `resume`
    training goes on after the last whole checkpoint there; on one CPU process it then ends with the
    same bits as if it had never stopped. The same recipe gives the same bits again.

    Under torch.distributed each process takes its share of every batch and draws its own noise; a
    step follows the mean gradient over the whole batch, also where the last batch is short. The
    global random state is seeded anew in every epoch, from (seed, epoch, rank).

    Parameters
    ----------
    network : torch.nn.Module
        Images (N, C, H, W) in [0, 1], noise added, to logits (N, num_classes).
    data : Dataset
        What to train on.
    recipe : Recipe
        The settings.
    folder : pathlib.Path
        Where checkpoints go; it is made when absent.
    test : Dataset, optional
        What to certify every ``recipe.validate_every`` epochs.
    resume : bool
        Go on from the last checkpoint in `folder`, made by the same recipe from the same data.
    workers : int
        Processes that read and augment images; the result does not depend on them.
    device : torch.device or str
        Where to compute.

    Raises
    ------
    ValueError
        If `folder` holds a checkpoint and `resume` is not set, or one of another recipe, data set
        or architecture.
    FileNotFoundError
        If `resume` is set and there is no checkpoint.
    FloatingPointError
        If a loss or a weight is not finite: with the epoch, the step, and the last good checkpoint.
    """
    rank, processes = _place()
    network.to(device)
    optimizer = SGD(
        network.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay
    )
    fingerprint = data.fingerprint()
    history = _begin(network, optimizer, recipe, fingerprint, folder, resume)
    parallel = DistributedDataParallel(network) if processes > 1 else network
    autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=recipe.bf16)
    for epoch in range(len(history), recipe.epochs):
        started, total = time.perf_counter(), torch.zeros((), device=device)
        _seed(recipe.seed, epoch, rank)
        network.train()
        batches = _batches(data, recipe, epoch, rank, processes, workers)
        steps = math.ceil(len(data) / recipe.batch)
        for step, (images, labels, share) in enumerate(_bar(batches, steps, epoch, rank)):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate(epoch + step / steps)
            for x, y, weight, is_last in _parts(images, labels, share, recipe.accumulate):
                with _averaged(parallel, is_last):
                    with autocast:
                        loss = risk(parallel, network, x.to(device), y.to(device), recipe, epoch)
                    if not loss.isfinite():
                        raise _not_finite(f"The loss is {loss:g}", epoch, step, folder)
                    torch.autograd.backward(processes * weight * loss)
                total += weight * loss.detach()
            optimizer.step()
            optimizer.zero_grad()
        if processes > 1:
            distributed.all_reduce(total)
        row = {"epoch": epoch + 1, "lr": recipe.learning_rate(epoch + step / steps)}
        row |= {"loss": float(total) / steps, "seconds": round(time.perf_counter() - started, 3)}
        if rank == 0:
            if test and recipe.validate_every and (epoch + 1) % recipe.validate_every == 0:
                row |= certified(network, test, recipe, device)
            history.append(row)
            _write(network, optimizer, recipe, fingerprint, history, folder, step)
        else:
            history.append(row)
    if processes > 1:
        distributed.barrier()
    return checkpoints.weights_path(folder, recipe.epochs)


def risk(
    forward: nn.Module, network: nn.Module, x: Tensor, y: Tensor, recipe: Recipe, epoch: int
) -> Tensor:
    """Return the recipe's risk of a batch under fresh noise, at the adversary's images if the
    recipe has one. `forward` is `network`, or what wraps it for several processes.
    """
    noise = recipe.sigma * torch.randn(recipe.k, *x.shape, device=x.device)
    if recipe.steps:
        eps = recipe.attack_radius(epoch)
        x = pgd(network, x, y, noise, lam=recipe.lam, eps=eps, steps=recipe.steps)
    if recipe.risk == "stability":
        logits = noisy_logits(forward, x, torch.cat([torch.zeros_like(noise[:1]), noise]))
        return stability(logits[0], logits[1:], y, lam=recipe.lam)
    logits = noisy_logits(forward, x, noise)
    shared: dict[str, Any] = {
        "lam": recipe.lam,
        "floor": recipe.floor,
        "label_smoothing": recipe.label_smoothing,
    }
    if recipe.risk == "radius":
        return radius_risk(logits, y, sigma=recipe.sigma, **shared)
    return adre_risk(logits, y, per="mean" if recipe.per == "mean" else "single", **shared)


def certified(
    network: nn.Module, test: Dataset, recipe: Recipe, device: torch.device | str
) -> dict[str, float]:
    """Return the certified accuracy at radius 0 and the average certified radius, by CERTIFY at
    alpha = 0.001, of images spread evenly over `test`.
    """
    count = min(recipe.validate_images, len(test))
    ids = np.linspace(0, len(test) - 1, count).round().astype(np.int64)
    images, labels = zip(*(test[int(i)] for i in ids), strict=True)
    x = torch.stack(images).to(device)
    classifier = Classifier(network, test.num_classes)
    sampler = Sampler(classifier, GaussianNoise(recipe.sigma, recipe.seed))
    top = sampler.count(x, ids, 0, 100, SELECTION)[:, :-1].argmax(1)
    votes = sampler.count(x, ids, 0, recipe.validate_samples, ESTIMATION)
    result = certify_counts(
        votes[:, :-1], top, sigma=recipe.sigma, method="certify", invalid=votes[:, -1]
    )
    correct = result.predicted == np.array(labels)
    return {
        "certified_accuracy": float(correct.mean()),
        "average_radius": float((result.radius * correct).mean()),
    }


def _place() -> tuple[int, int]:
    """Return this process's rank and the number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _seed(*key: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


def _begin(
    network: nn.Module,
    optimizer: SGD,
    recipe: Recipe,
    fingerprint: str,
    folder: Path,
    resume: bool,
) -> History:
    """Return the history so far, with network and optimiser as they were at its end."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = checkpoints.latest(folder)
    if not resume:
        if checkpoint:
            raise ValueError(f"{folder} holds {checkpoint.path.name}: resume it, or go elsewhere.")
        return []
    if not checkpoint:
        raise FileNotFoundError(f"{folder} holds no checkpoint to resume.")
    now = {**dataclasses.asdict(recipe), "data": fingerprint}
    then = {**checkpoint.record["recipe"], "data": checkpoint.record["data"]}
    changes = [
        f"{key} = {then.get(key)!r}, now {now[key]!r}" for key in now if then.get(key) != now[key]
    ]
    if changes:
        raise ValueError(f"{checkpoint.path} was made with {'; '.join(changes)}.")
    check_state(network, checkpoint.weights, str(checkpoint.path))
    network.load_state_dict(checkpoint.weights)
    for name, parameter in network.named_parameters():
        if name in checkpoint.optimizer:
            momentum = checkpoint.optimizer[name].to(parameter.device)
            optimizer.state[parameter]["momentum_buffer"] = momentum
    history: History = checkpoint.record["history"]
    return history


def _batches(
    data: Dataset, recipe: Recipe, epoch: int, rank: int, processes: int, workers: int
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Yield this process's images and labels of each batch, with their share of the batch.

    A process without an image in a short batch takes one of its images at a share of 0.
    """
    order = np.random.default_rng((recipe.seed, epoch)).permutation(len(data)).tolist()
    whole = [order[i : i + recipe.batch] for i in range(0, len(order), recipe.batch)]
    own = [batch[rank::processes] for batch in whole]
    loader = DataLoader(
        Augmented(data, recipe.augment, recipe.seed, epoch),
        batch_sampler=[part or batch[:1] for part, batch in zip(own, whole, strict=True)],
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )
    for (images, labels), part, batch in zip(loader, own, whole, strict=True):
        yield images, labels, len(part) / len(batch)


def _parts(
    images: Tensor, labels: Tensor, share: float, count: int
) -> Iterator[tuple[Tensor, Tensor, float, bool]]:
    """Cut a share into at most `count` parts, each with its weight, and mark the last."""
    parts = list(zip(images.chunk(count), labels.chunk(count), strict=True))
    for number, (x, y) in enumerate(parts, 1):
        yield x, y, share * len(y) / len(labels), number == len(parts)


def _averaged(parallel: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
    """Let gradients be averaged over the processes in the last part of a step only."""
    if isinstance(parallel, DistributedDataParallel) and not is_last:
        return parallel.no_sync()
    return nullcontext()


def _bar(batches: Iterator[Any], steps: int, epoch: int, rank: int) -> Iterator[Any]:
    """Show the progress of an epoch on rank 0, if somebody sits at a terminal."""
    quiet = True if rank else None
    return iter(tqdm(batches, f"epoch {epoch + 1}", steps, leave=False, disable=quiet))


def _not_finite(what: str, epoch: int, step: int, folder: Path) -> FloatingPointError:
    checkpoint = checkpoints.latest(folder)
    last = f"is {checkpoint.path}" if checkpoint else "does not exist"
    return FloatingPointError(
        f"{what} in epoch {epoch + 1}, step {step + 1}. The last good checkpoint {last}."
    )


def _write(
    network: nn.Module,
    optimizer: SGD,
    recipe: Recipe,
    fingerprint: str,
    history: History,
    folder: Path,
    step: int,
) -> None:
    """Write the metrics and the checkpoint of the epoch that `history` ends with."""
    weights = network.state_dict()
    if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
        raise _not_finite("A weight is not finite", len(history) - 1, step, folder)
    momentum = {
        name: optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in network.named_parameters()
        if optimizer.state[parameter].get("momentum_buffer") is not None
    }
    record = {
        "recipe": dataclasses.asdict(recipe),
        "data": fingerprint,
        "torch": torch.__version__,
        "history": history,
    }
    checkpoints.write(folder, len(history), weights, momentum, record)
    checkpoints.replace(folder / "metrics.csv", _csv(history))


def _csv(history: History) -> bytes:
    columns = ["epoch", "lr", "loss", "seconds", "certified_accuracy", "average_radius"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue().encode()
