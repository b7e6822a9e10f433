"""The training loop: from a network, images and a recipe to checkpoints."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

# torch loads this module at the first step of an optimiser, and its defaults then keep the process
# group: its threads outlive it and abort the process at exit. Loaded before there is a group, they
# keep nothing.
import torch.distributed.nn.functional
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import SGD
from tqdm import tqdm

from adre_train import checkpoints
from adre_train.batches import Batches, Share, check_images, parts
from adre_train.metrics import Meter, collapses, to_csv
from adre_train.objective import draw, risk
from adre_train.recipe import Recipe
from adre_train.validation import certified
from tcertify.classifiers.checkpoints import check_state, load_published
from tcertify.data import Dataset
from tcertify.data.by_name import NAMES

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

#: Where there is no terminal, a line in the log says every so many seconds how training goes.
LINE_SECONDS = 60.0

log = logging.getLogger("adre_train")


def train(
    network: nn.Module,
    data: Dataset,
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    init: Path | None = None,
    max_steps: int | None = None,
    checkpoint_minutes: float = 10.0,
    workers: int | None = None,
    tensorboard: bool = False,
    device: torch.device | str = "cpu",
) -> Path:
    """Train `network` on `data` as the recipe says; return the path of the last weights.

    After every epoch, and within one every `checkpoint_minutes`, a checkpoint is written into
    `folder`; the last two stay, and the one that certified farthest on the validation split.
    ``metrics.csv`` has a line for each epoch. With `resume` training goes on after the last whole
    checkpoint; on one CPU process it then ends with the bits of a run that never stopped. On a CPU
    the same recipe gives the same bits again.

    The noise is a pure function of (seed, image, epoch, copy): no order, process or device changes
    it, and it is none that certifies (`tcertify.sampling.TRAINING`).

    Under torch.distributed each process takes its share of every batch; a step follows the mean
    gradient over the whole batch, also where the last batch is short. Import this module before the
    process group is made: otherwise torch keeps the group's threads to the end of the process,
    where they may abort it. The global random state, which a network's dropout draws from, is
    seeded anew in every step, from (seed, epoch, step, rank).

    Parameters
    ----------
    network : torch.nn.Module
        Images (N, C, H, W) in [0, 1], noise added, to logits (N, num_classes). It is trained in
        place, and stays compiled and in the layout that the recipe asks for.
    data : Dataset
        The training images; with ``recipe.validate_every`` every tenth of them validates instead.
    recipe : Recipe
        The settings.
    folder : pathlib.Path
        Where checkpoints go; it is made when absent.
    resume : bool
        Go on from the last checkpoint in `folder`, made by the same recipe from the same data; more
        epochs may be asked for than before.
    init : pathlib.Path, optional
        Weights to begin with, in any form that `tcertify.classifiers.load_published` reads.
    max_steps : int, optional
        Stop after this step of the whole training, with a checkpoint.
    checkpoint_minutes : float
        How many minutes of work a kill may cost at most; 0 writes checkpoints after epochs only.
    workers : int, optional
        Processes that read and augment images, which decide no bit of the result; without it, what
        suits data and device.
    device : torch.device or str
        Where to compute.

    Raises
    ------
    ValueError
        If `folder` holds a checkpoint and `resume` is not set, or one of another recipe, data set
        or architecture; if a label is no class of `data`.
    FileNotFoundError
        If `resume` is set and there is no checkpoint.
    FloatingPointError
        If a loss or a weight is not finite: with the epoch, the step, and the last good checkpoint.
    """
    if resume and init:
        raise ValueError(
            "`init` begins a training and `resume` goes on with one: give one of them."
        )
    run = _Run(network, data, recipe, folder, torch.device(device), workers)
    run.begin(resume, init)
    if tensorboard and run.rank == 0:
        run.board = _board(folder, len(run.history))
    with _settled_convolutions(run.device):
        return run.go(max_steps, 60 * checkpoint_minutes)


class _Run:
    """A training: what is trained, on what, how far it has come, and where it is written."""

    def __init__(
        self,
        network: nn.Module,
        data: Dataset,
        recipe: Recipe,
        folder: Path,
        device: torch.device,
        workers: int | None,
    ) -> None:
        if recipe.dataset in NAMES and not data.name.startswith(recipe.dataset):
            raise ValueError(f"`dataset` is {recipe.dataset}, and the data is {data.name}.")
        self.rank, self.processes = _place()
        self.network, self.data, self.recipe, self.folder = network, data, recipe, folder
        self.device = device
        network.to(device)
        if recipe.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = SGD(
            network.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay
        )
        self.batches = Batches(
            data,
            recipe,
            rank=self.rank,
            processes=self.processes,
            workers=workers,
            device=device,
        )
        self.record: dict[str, Any] = {
            "recipe": dataclasses.asdict(recipe),
            "data": {
                "name": data.name,
                "fingerprint": data.fingerprint(),
                "num_classes": data.num_classes,
            },
            "network": f"{type(network).__module__}:{type(network).__qualname__}",
            "init": None,
            "torch": torch.__version__,
        }
        self.board: SummaryWriter | None = None
        self.history: list[dict[str, Any]] = []
        self.step = 0  # of the epoch that comes after the history
        self._unseen: tuple[int, int, Tensor] | None = None
        self._named: set[str] = set()

    def begin(self, resume: bool, init: Path | None) -> None:
        """Take up the state that training begins with, and make ready for several processes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoint = checkpoints.latest(self.folder)
        if resume:
            if not checkpoint:
                raise FileNotFoundError(f"{self.folder} holds no checkpoint to resume.")
            self._take_up(checkpoint)
        elif checkpoint:
            raise ValueError(
                f"{self.folder} holds {checkpoint.path.name}: resume it, or go elsewhere."
            )
        elif init:
            load_published(self.network, init)
            digest = hashlib.sha256(init.read_bytes()).hexdigest()
            self.record["init"] = {"path": str(init), "sha256": digest}
        if self.recipe.compile:
            self.network.compile()
        self.parallel = (
            DistributedDataParallel(self.network) if self.processes > 1 else self.network
        )

    def _take_up(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Go back to the state of a checkpoint, if it is one of this training."""
        record = checkpoint.record
        now = {**self.record["recipe"], "data": self.record["data"]["fingerprint"]}
        then = {**record["recipe"], "data": record["data"]["fingerprint"]}
        then["epochs"] = max(then["epochs"], now["epochs"])
        changes = [
            f"{key} = {then.get(key)!r}, now {now[key]!r}"
            for key in now
            if then.get(key) != now[key]
        ]
        if changes:
            raise ValueError(f"{checkpoint.path} was made with {'; '.join(changes)}.")
        check_state(self.network, checkpoint.weights, str(checkpoint.path))
        self.network.load_state_dict(checkpoint.weights)
        for name, parameter in self.network.named_parameters():
            if name in checkpoint.optimizer:
                momentum = checkpoint.optimizer[name].to(parameter.device)
                self.optimizer.state[parameter]["momentum_buffer"] = momentum
        self.history, self.step = record["history"], record["step"]
        self.record["init"] = record["init"]

    def go(self, max_steps: int | None, seconds: float) -> Path:
        """Train to the end, or to step `max_steps`; return the path of the last weights."""
        clock = _Every(seconds)
        while len(self.history) < self.recipe.epochs and not self._reached(max_steps):
            self._epoch(max_steps, clock)
        if self.processes > 1:
            distributed.barrier()
        return checkpoints.weights_path(self.folder, len(self.history), self.step)

    def _reached(self, max_steps: int | None) -> bool:
        done = len(self.history) * self.batches.steps + self.step
        return max_steps is not None and done >= max_steps

    def _epoch(self, max_steps: int | None, checkpoint_due: _Every) -> None:
        """Train what is left of an epoch, then validate and write a checkpoint."""
        epoch, started = len(self.history), time.perf_counter()
        meter = Meter(self.data.num_classes, self.recipe, self.device)
        line_due = _Every(LINE_SECONDS)
        self.network.train()
        for batch in self._bar(self.batches.epoch(epoch, self.step), epoch):
            self._step(epoch, batch, meter)
            self.step += 1
            if self.step == self.batches.steps:
                continue  # what an epoch ends with comes below
            if self._reached(max_steps):
                self._write()
                return
            if self.rank == 0 and checkpoint_due():
                self._write()
            if self.rank == 0 and line_due():
                self._say(epoch, meter.row(time.perf_counter() - started, together=False))
        row = {"epoch": epoch + 1, "lr": self._rate(epoch, self.step - 1)}
        row |= meter.row(time.perf_counter() - started, together=self.processes > 1)
        self._look()
        if self.rank == 0:
            self._name_collapses(epoch, row)
            if self.recipe.validate_every and (epoch + 1) % self.recipe.validate_every == 0:
                row |= certified(self.network, self.data, self.recipe, self.device)
        self.history.append(row)
        if self.board:
            for name in row.keys() - {"epoch"}:
                self.board.add_scalar(name, row[name], epoch + 1)
            self.board.flush()
        self.step = 0
        self._write()
        checkpoint_due.restart()

    def _step(self, epoch: int, batch: Share, meter: Meter) -> None:
        """Follow the mean gradient over a batch."""
        check_images(batch, self.data.name, self.data.num_classes)
        _seed(self.recipe.seed, epoch, self.step, self.rank)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(epoch, self.step)
        total = torch.zeros((), device=self.device)
        for part, weight, is_last in parts(batch, self.recipe.accumulate):
            x, y, ids = (tensor.to(self.device, non_blocking=True) for tensor in part)
            y, noise = y.long(), draw(x, ids, self.recipe, epoch)
            with self._averaged(is_last):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16):
                    loss, logits = risk(
                        self.parallel, self.network, x, y, noise, self.recipe, epoch
                    )
                torch.autograd.backward(self.processes * weight * loss)
            total += loss.detach()
            meter.add(loss, logits, y, weight * batch.size)
        norm = get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None])
        meter.add_step(norm)
        if self.recipe.clip:
            clip_grads_with_norm_(self.network.parameters(), self.recipe.clip, norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._look()
        self._unseen = (epoch, self.step, total)

    def _look(self) -> None:
        """Raise if the loss of the step before is not finite: nothing waits for the last one."""
        if self._unseen is not None:
            epoch, step, loss = self._unseen
            if not loss.isfinite():
                raise self._not_finite(f"The loss is {loss:g}", epoch, step)
            self._unseen = None

    def _rate(self, epoch: int, step: int) -> float:
        return self.recipe.learning_rate(epoch + step / self.batches.steps)

    def _averaged(self, is_last: bool) -> AbstractContextManager[Any]:
        """Let gradients be averaged over the processes in the last part of a step only."""
        if isinstance(self.parallel, DistributedDataParallel) and not is_last:
            return self.parallel.no_sync()
        return nullcontext()

    def _bar(self, batches: Iterator[Any], epoch: int) -> Iterator[Any]:
        """Show the progress of an epoch on rank 0, if somebody sits at a terminal."""
        return iter(
            tqdm(
                batches,
                f"epoch {epoch + 1}",
                self.batches.steps,
                initial=self.step,
                leave=False,
                disable=True if self.rank else None,
            )
        )

    def _say(self, epoch: int, row: dict[str, float]) -> None:
        """Log how the epoch goes, where no bar shows it, and name a collapse while it happens."""
        if not sys.stderr.isatty():
            log.info(
                "epoch %d of %d, step %d of %d: loss %.4f, noisy accuracy %.3f, at the floor %.3f, "
                "lr %.3g, %.0f images/s",
                *(epoch + 1, self.recipe.epochs, self.step, self.batches.steps),
                *(row[name] for name in ("loss", "noisy_accuracy", "at_floor")),
                *(self._rate(epoch, self.step), row["images_per_s"]),
            )
        self._name_collapses(epoch, row)

    def _name_collapses(self, epoch: int, row: dict[str, float]) -> None:
        for sentence in collapses(row, self.recipe, epoch):
            kind = sentence.partition(":")[0]
            if kind not in self._named:
                self._named.add(kind)
                log.warning("Epoch %d: %s", epoch + 1, sentence)

    def _not_finite(self, what: str, epoch: int, step: int) -> FloatingPointError:
        checkpoint = checkpoints.latest(self.folder)
        last = f"is {checkpoint.path}" if checkpoint else "does not exist"
        return FloatingPointError(
            f"{what} in epoch {epoch + 1}, step {step + 1}. The last good checkpoint {last}."
        )

    def _write(self) -> None:
        """Write the metrics and the checkpoint of where the training is; rank 0 alone does."""
        if self.rank:
            return
        self._look()
        weights = self.network.state_dict()
        if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
            epoch, step = len(self.history), self.step
            last = (epoch, step - 1) if step else (epoch - 1, self.batches.steps - 1)
            raise self._not_finite("A weight is not finite", *last)
        state = self.optimizer.state
        momentum = {
            name: state[parameter]["momentum_buffer"]
            for name, parameter in self.network.named_parameters()
            if state[parameter].get("momentum_buffer") is not None
        }
        record = {**self.record, "history": self.history}
        place, best = (len(self.history), self.step), best_epoch(self.history)
        checkpoints.write(self.folder, place, weights, momentum, record, best=best)
        checkpoints.replace(self.folder / "metrics.csv", to_csv(self.history))


def _board(folder: Path, epochs: int) -> SummaryWriter:
    """Return TensorBoard's writer, which forgets what was written after so many epochs."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "TensorBoard is not installed: pip install tensorboard."
        ) from None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=epochs + 1)


def best_epoch(history: list[dict[str, Any]]) -> int | None:
    """Return the epoch that certified farthest on average on the validation split, if any did."""
    seen = [row for row in history if "average_radius" in row]
    best = max(seen, key=lambda row: float(row["average_radius"]), default=None)
    return None if best is None else int(best["epoch"])


class _Every:
    """Says yes when so many seconds have passed since it last did; never for 0 seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.restart()

    def restart(self) -> None:
        """Begin to count anew."""
        self.last = time.monotonic()

    def __call__(self) -> bool:
        due = 0 < self.seconds <= time.monotonic() - self.last
        if due:
            self.restart()
        return due


def _place() -> tuple[int, int]:
    """Return this process's rank and the number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _seed(*key: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


@contextmanager
def _settled_convolutions(device: torch.device) -> Iterator[None]:
    """Let cuDNN measure which algorithm is fastest: all batches but the last have one shape."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
