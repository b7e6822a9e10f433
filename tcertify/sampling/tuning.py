"""How a classifier runs fastest, measured: precision, layout, folding, compilation, rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tcertify._checks import check_whole
from tcertify.classifiers.classifier import Classifier
from tcertify.classifiers.execution import BaseClassifier, Execution
from tcertify.sampling.batch import most_rows, suitable_rows
from tcertify.sampling.memory import is_out_of_memory, kept
from tcertify.sampling.noise import VALIDATION, Noise, choose_noise
from tcertify.sampling.sampler import Sampler

#: Calls at one size: one that settles memory and kernels, then those of which the shortest counts.
_SETTLING, _TIMED = 1, 3
#: More rows must be this much faster: they take more memory, and a clock is not exact.
_GAIN = 1.02
#: A rate below this share of the best says that larger sizes will not come back.
_LOST = 0.8

#: Seconds for the ladder of one execution, and for votes in float32 where 1,000 take longer.
_LADDER_SECONDS, _VOTE_SECONDS = 3.0, 10.0
#: Votes that are compared with float32's.
_VOTES = 1000


@dataclass(frozen=True)
class Ladder:
    """The number of rows that was fastest, and the samples per second at each that was timed."""

    rows: int
    rates: dict[int, float]


def fastest_rows(
    work: Callable[[int], object],
    *,
    fewest: int = 1,
    most: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Ladder:
    """Time powers of two from `fewest` to `most` rows, and return the fastest per row.

    It ends at the first size that does not fit in memory, after two sizes in a row that are much
    slower than the best, and where the next would outlast the time that is left; the first size is
    timed always. Where two are as fast as the clock can tell, the smaller is kept.

    Parameters
    ----------
    work : callable
        ``work(rows)`` runs one forward pass of that many rows to its end: on a GPU it waits.
    fewest, most : int
        The first size, and what none may exceed.
    seconds : float
        By `clock`, for all of it.
    clock : callable
        Returns seconds.

    Raises
    ------
    MemoryError, torch.OutOfMemoryError, RuntimeError
        What `work` raises at the first size, or at any size if it is not about memory.
    """
    end = clock() + seconds
    best, rates, lost = fewest, dict[int, float](), 0
    rows, expected = fewest, 0.0
    while rows <= most and lost < 2 and clock() + expected <= end:
        try:
            shortest = _shortest(work, rows, clock)
        except Exception as error:
            if not rates or not is_out_of_memory(error):
                raise
            break
        rates[rows] = rows / shortest
        if rates[rows] > _GAIN * rates[best] or rows == fewest:
            best = rows
        lost = lost + 1 if rates[rows] < _LOST * rates[best] else 0
        rows, expected = 2 * rows, 2 * (_SETTLING + _TIMED) * shortest
    return Ladder(best, rates)


def _shortest(work: Callable[[int], object], rows: int, clock: Callable[[], float]) -> float:
    """Return the seconds of the shortest of a few calls, as a clock that may stand still has it."""
    found = []
    for _ in range(_SETTLING + _TIMED):
        start = clock()
        work(rows)
        found.append(clock() - start)
    return max(min(found[_SETTLING:]), 1e-9)


@dataclass(frozen=True)
class Trial:
    """One way to execute a classifier, tried.

    Attributes
    ----------
    execution : Execution
    rows : int
        Of the forward pass that was fastest; 0 where it cannot run.
    rate : float
        Samples per second of the network alone.
    votes, moved : int
        Samples that voted, and those that voted otherwise than under the first trial.
    reason : str or None
        Why it cannot run.
    """

    execution: Execution
    rows: int = 0
    rate: float = 0.0
    votes: int = 0
    moved: int = 0
    reason: str | None = None

    @property
    def name(self) -> str:
        """Such as ``bfloat16, channels-last, folded``."""
        execution = self.execution
        words = {
            "channels-last": execution.channels_last,
            "folded": execution.fold,
            "compiled": execution.compile,
        }
        return ", ".join([str(execution.dtype), *(word for word, on in words.items() if on)])

    def record(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Tuning:
    """Every way that was tried, the classifier's own first."""

    trials: tuple[Trial, ...]

    @property
    def fastest(self) -> Trial:
        """The fastest; the earlier of two that a clock can hardly tell apart."""
        best = self.trials[0]
        for trial in self.trials[1:]:
            if trial.rate > _GAIN * best.rate:
                best = trial
        return best

    def lines(self) -> list[str]:
        """Return the table."""
        width = max(len(trial.name) for trial in self.trials)
        heading = f"{'':{width}}  {'rows':>6}  {'samples/s':>9}  votes that differ"
        return [heading, *(f"{trial.name:{width}}  {_told(trial)}" for trial in self.trials)]


def _told(trial: Trial) -> str:
    if trial.reason is not None:
        return f"not possible: {trial.reason}"
    return f"{trial.rows:6}  {trial.rate:9.4g}  {trial.moved} of {trial.votes}"


def tune(
    base_classifier: BaseClassifier,
    num_classes: int,
    sigma: float,
    x: torch.Tensor,
    *,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
) -> Tuning:
    """Time a classifier in each precision, layout and form that is open to it, and say how many
    votes come out otherwise.

    Tried are its own precision and, where the device has it in hardware, bfloat16; each in both
    layouts, and with BatchNorm folded; the fastest of these once more compiled. What is chosen
    belongs to f: certificates speak of the classifier as executed. A large network takes minutes.

    Parameters
    ----------
    base_classifier : torch module or callable
        From a batch (B, ...) to logits (B, num_classes).
    num_classes : int
    sigma : float
        Standard deviation of the noise that the votes are cast under.
    x : float tensor, one image, such as (C, H, W)
        On the classifier's device. The noise is none that any certificate is made from.
    device : torch device or str, optional
        Where a plain function runs.
    batch_size : int, optional
        Rows of a forward pass at most.

    Returns
    -------
    Tuning

    Raises
    ------
    ValueError, TypeError
        Arguments that `Classifier` or `choose_noise` refuses.
    Exception
        What the classifier raises as it is; what it raises otherwise is told in the table.

    Examples
    --------
    >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    >>> tune(linear, 3, 0.5, torch.rand(1, 2, 2)).trials[0].name
    'float32'
    """
    own = Classifier(base_classifier, num_classes, device=device)
    own.check_images(x)
    batch_size = None if batch_size is None else check_whole("batch_size", batch_size)
    noise = choose_noise("auto", sigma, images=[x])
    votes: NDArray[np.int64] | None = None
    trials: list[Trial] = []

    def attempt(execution: Execution, rows: int | None = None) -> None:
        nonlocal votes
        try:
            classifier = Classifier(
                base_classifier, num_classes, device=device, execution=execution
            )
            trial = _timed(classifier, x, batch_size, rows)
            expected = votes if votes is not None else np.empty(_enough(trial.rate), np.int64)
            found = _cast(classifier, noise, x, trial.rows, len(expected))
        except Exception as error:  # what the user's network or a compiler says of it
            if not trials:
                raise
            trials.append(Trial(_named(execution, own), reason=_first_line(error)))
            return
        votes = found if votes is None else votes
        moved = int((found != votes).sum())
        trials.append(replace(trial, votes=len(found), moved=moved))

    with kept() if own.device.type == "cpu" else nullcontext():
        for execution in _open_to(own, x):
            if not (execution.fold and any(t.reason and t.execution.fold for t in trials)):
                attempt(execution)
        best = Tuning(tuple(trials)).fastest
        attempt(replace(best.execution, compile=True), best.rows)
    return Tuning(tuple(trials))


def _open_to(own: Classifier, x: torch.Tensor) -> Iterator[Execution]:
    """Yield what is tried, the classifier as it is first."""
    module = isinstance(own.base_classifier, torch.nn.Module)
    dtypes = [None, *(["bfloat16"] if module and _has_bfloat16(own.device) else [])]
    for dtype, last, fold in product(
        dtypes, [False, True][: 1 + (x.dim() == 3)], [False, True][: 1 + module]
    ):
        yield Execution(dtype, channels_last=last, fold=fold)


def _has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _timed(classifier: Classifier, x: torch.Tensor, limit: int | None, rows: int | None) -> Trial:
    """Return a trial without votes: at the rows that are given, or at the fastest of a ladder."""
    images = x[None]
    most = most_rows(classifier.device) if limit is None else limit
    first = rows or max(1, suitable_rows(classifier, images, limit) // 4)
    batches: dict[int, torch.Tensor] = {}

    def work(rows: int) -> None:
        if rows not in batches:
            batches.clear()
            batches[rows] = classifier.empty(rows, images).copy_(images.expand(rows, *x.shape))
        classifier.logits(batches[rows])
        if x.is_cuda:
            torch.cuda.synchronize(x.device)

    with classifier.running():
        ladder = fastest_rows(
            work, fewest=first, most=rows or most, seconds=_LADDER_SECONDS, clock=time.perf_counter
        )
    return Trial(classifier.execution, ladder.rows, ladder.rates[ladder.rows])


def _enough(rate: float) -> int:
    return min(_VOTES, max(1, int(_VOTE_SECONDS * rate)))


def _cast(
    classifier: Classifier, noise: Noise, x: torch.Tensor, rows: int, votes: int
) -> NDArray[np.int64]:
    """Return the vote of each of the first samples: each is counted as an image of its own."""
    sampler, found = Sampler(classifier, noise, rows=rows), []
    for start in range(0, votes, rows):
        samples = np.arange(start, min(start + rows, votes))
        images = x.expand(len(samples), *x.shape)
        found.append(sampler.count(images, 0, samples, samples + 1, VALIDATION).argmax(1))
    return np.concatenate(found)


def _named(execution: Execution, own: Classifier) -> Execution:
    return replace(execution, dtype=execution.dtype or own.execution.dtype)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{lines[0][:100] if lines else type(error).__name__}"
