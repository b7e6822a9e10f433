"""What makes a certificate void, found on a batch and named.

The guarantee speaks of one fixed function of one input. A classifier that rolls dice, that looks at
its neighbours in the batch or that changes as it runs is no such function.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from tcertify._checks import check_whole_array
from tcertify.classifiers.classifier import Classifier
from tcertify.data.arrays import describe_range
from tcertify.errors import VoidCertificateError
from tcertify.sampling.noise import SELECTION, Noise
from tcertify.sampling.sampler import Sampler

#: What `allow` can accept knowingly.
CODES = {
    "random": "the same batch gives other logits when it is run again",
    "rows": "the logits of a row depend on the other rows of its batch",
    "state": "the classifier changes its own parameters or buffers",
    "range": "an image lies outside [0, 1]",
}

#: Rows that are compared, and the noise that they carry, in standard deviations of the run's.
_ROWS, _TIMES = 64, (1, 2, 4, 8)


@dataclass(frozen=True)
class Defect:
    """One thing that is wrong; `code` is one of `CODES`, or None where nothing becomes void."""

    reason: str
    code: str | None = None


CHANGED_STATE = Defect("The classifier changes its parameters or buffers.", "state")


def check_codes(allow: Iterable[str]) -> None:
    """Refuse what is no code of a defect."""
    for code in allow:
        if code not in CODES:
            raise ValueError(f"`allow` must hold codes of {', '.join(CODES)}, got {code!r}.")


def settle(defects: Iterable[Defect], allow: Iterable[str]) -> list[str]:
    """Return the defects as warnings; raise `VoidCertificateError` for one that is not allowed."""
    allowed, texts = set(allow), []
    for defect in defects:
        if defect.code is not None and defect.code not in allowed:
            raise VoidCertificateError(
                f"Certificates would be void: {defect.reason} Accept it knowingly with"
                f' allow=["{defect.code}"].'
            )
        texts.append(defect.reason)
    return texts


def outside_range(images: torch.Tensor) -> list[Defect]:
    """Return the defect of images that do not lie in [0, 1]."""
    problem = describe_range(images)
    return [Defect(f"The image lies outside [0, 1]: {problem}", "range")] if problem else []


def remarks(classifier: Classifier) -> list[Defect]:
    """Return what is worth a warning before anything has run: train mode, or no torch module."""
    module = classifier.module
    if not isinstance(module, torch.nn.Module):
        return [Defect("The classifier is no torch module: its parameters are not known.")]
    if module.training:
        return [Defect("The classifier was in train mode; it runs in eval mode.")]
    return []


def find_defects(sampler: Sampler, images: torch.Tensor) -> list[Defect]:
    """Run up to 64 noisy copies of the images in three batches, and compare.

    The first two batches are equal; in the third the copies are permuted and have other
    neighbours. Decisions and the logits of classes may differ by rounding, no more. The copies
    carry 1, 2, 4 and 8 times the noise, so that some are uncertain whatever the images are.

    Parameters
    ----------
    sampler : Sampler
    images : tensor (S, ...)
        On the device of the classifier; a few, one is enough.
    """
    classifier = sampler.classifier
    before, generators = classifier.parts(), _generators()
    defects = sampler.fitting(images, lambda: _probe(sampler, images))
    after = classifier.parts()
    if after.state != before.state:
        defects.append(CHANGED_STATE)
    elif after.structure != before.structure:
        defects.append(Defect("The classifier changes attributes of its own as it runs."))
    if _generators() != generators:
        defects.append(Defect("The classifier draws from a global random generator."))
    return defects


def recheck(
    sampler: Sampler, images: torch.Tensor, image_ids: ArrayLike, first: ArrayLike, stream: int
) -> list[Defect]:
    """Cast votes of a run again, in the same batch and in another one; return what differs by more
    than rounding.

    Parameters
    ----------
    sampler, images, image_ids, stream
        As in `Sampler.count`.
    first : array of whole numbers (S,), or one for all
        Of each image, the first of the samples that are cast; together they fill a batch.
    """
    ids = check_whole_array("image_ids", image_ids, maximum=2**32 - 1)
    start = np.broadcast_to(check_whole_array("first", first), len(images))

    def compared() -> list[Defect]:
        rows, mates = _shares(sampler)
        at = np.arange(rows + 2 * mates)
        slot = at % len(images)
        batch = _copies(
            sampler.classifier,
            sampler.noise,
            images,
            slot,
            ids[slot],
            start[slot] + at // len(images),
            stream,
        )
        return _compare(sampler.classifier, *torch.split(batch, [rows, mates, mates]))

    return sampler.fitting(images, compared)


def _probe(sampler: Sampler, images: torch.Tensor) -> list[Defect]:
    rows, mates = _shares(sampler)
    louder = [sampler.noise.louder(times) for times in _TIMES]
    of = np.arange(rows) // len(images) % len(louder)
    copies = sampler.classifier.empty(rows, images)
    for which, noise in enumerate(louder):
        at = np.flatnonzero(of == which)
        copies[torch.from_numpy(at).to(copies.device)] = _unused(sampler, noise, images, at)
    zeros, inverted = torch.zeros_like(images), 1 - images
    others = [
        _unused(sampler, sampler.noise, near, np.arange(mates) + first)
        for near, first in ((zeros, rows), (inverted, rows + mates))
    ]
    return _compare(sampler.classifier, copies, *others)


def _shares(sampler: Sampler) -> tuple[int, int]:
    """Return how many rows of a batch are compared, and how many are their neighbours."""
    assert sampler.batch_size is not None
    rows = min(_ROWS, (sampler.batch_size + 1) // 2)
    return rows, sampler.batch_size - rows


def _compare(
    classifier: Classifier, copies: torch.Tensor, mates: torch.Tensor, others: torch.Tensor
) -> list[Defect]:
    """Return the defects that the logits of three batches show."""
    order = torch.randperm(len(copies), generator=torch.Generator().manual_seed(0))
    order = order.to(copies.device)
    batch = torch.cat([copies, mates])
    given = batch.clone()
    with classifier.running():
        first = classifier.logits(batch.clone())[: len(copies)].clone()
        again = classifier.logits(given)[: len(copies)].clone()
        permuted = classifier.logits(torch.cat([others, copies[order]]))[len(others) :]
        elsewhere = torch.empty_like(permuted)
        elsewhere[order] = permuted

    defects = []
    if not torch.equal(given, batch):
        defects.append(Defect("The classifier changes its input in place."))
    if _differ(first, again):
        defects.append(Defect("The same batch gives other logits when it is run again.", "random"))
    elif not torch.equal(first.nan_to_num(), again.nan_to_num()):
        defects.append(
            Defect("The same batch gives other last bits when it is run again: no exact replay.")
        )
    if _differ(first, elsewhere):
        defects.append(Defect("The logits of a row depend on the other rows of its batch.", "rows"))
    if (first.amax(1) == first.amin(1)).double().mean() > 0.99:
        defects.append(Defect("The logits are all equal: a dead network?"))
    return defects


def _unused(
    sampler: Sampler, noise: Noise, images: torch.Tensor, numbers: NDArray[np.int64]
) -> torch.Tensor:
    """Return noisy copies whose noise belongs to no image of a data set: the highest ids."""
    slot, zeros = numbers % len(images), np.zeros(len(numbers), np.int64)
    ids = 2**32 - 1 - numbers
    return _copies(sampler.classifier, noise, images, slot, ids, zeros, SELECTION)


def _copies(
    classifier: Classifier,
    noise: Noise,
    images: torch.Tensor,
    slot: NDArray[np.int64],
    ids: NDArray[np.int64],
    samples: NDArray[np.int64],
    stream: int,
) -> torch.Tensor:
    """Return noisy copies of ``images[slot]``, as the classifier is given them."""
    out = classifier.empty(len(slot), images)
    if len(slot) == 0:
        return out
    rows = torch.from_numpy(np.stack([slot, ids, samples])).to(images.device)
    where = rows[0].to(torch.int32)
    ties = torch.zeros(len(slot), dtype=torch.bool, device=images.device)
    return noise.add(out, ties, images.float().contiguous(), where, rows[1], rows[2], stream=stream)


def _differ(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether logits differ by more than rounding, or more decisions than ties can explain.

    Rounding is measured by the logits of the classes that receive votes: one class that is masked
    by a large number must not hide what happens among the others.
    """
    decisions = a.argmax(1), b.argmax(1)
    eps = torch.finfo(a.dtype).eps
    a, b = a.float(), b.float()
    sizes = a.abs().masked_fill(~a.isfinite(), 0)
    voted = torch.zeros(a.shape[1], dtype=torch.bool, device=a.device)
    voted[torch.cat(decisions)] = True
    slack = eps**0.5 * torch.maximum(sizes, sizes[:, voted].amax(1, keepdim=True))
    near = (a == b) | (a.isnan() & b.isnan()) | ((a - b).abs() <= slack)
    flips = int((decisions[0] != decisions[1]).sum())
    return not bool(near.all()) or flips > len(a) // 16


def _generators() -> list[Any]:
    """Return the states of the global random generators, comparable."""
    states: list[Callable[[], Any]] = [
        lambda: torch.get_rng_state().tolist(),
        random.getstate,
        lambda: str(np.random.get_state(legacy=False)["state"]),  # noqa: NPY002 - only looked at
    ]
    if torch.cuda.is_available():
        states.append(lambda: torch.cuda.get_rng_state().tolist())
    return [state() for state in states]
