"""What makes a certificate void, found on a first batch and named.

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

from tcertify.errors import VoidCertificateError
from tcertify.sampling.noise import SELECTION
from tcertify.sampling.sampler import Sampler

#: What `allow` can accept knowingly.
CODES = {
    "random": "the same batch gives other logits when it is run again",
    "rows": "the logits of a row depend on the other rows of its batch",
    "state": "the classifier changes its own parameters or buffers",
    "range": "an image lies outside [0, 1]",
}

_ROWS = 64


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


def find_defects(sampler: Sampler, image: torch.Tensor) -> list[Defect]:
    """Run up to 64 noisy copies of an image in three batches, and compare.

    The first two batches are equal; in the third the copies are permuted and have other
    neighbours. Logits may differ in their last bits; labels may not.

    Parameters
    ----------
    sampler : Sampler
    image : tensor (1, ...)
        On the device of the classifier.
    """
    module = sampler.classifier.module
    before, generators = sampler.classifier.parts(), _generators()
    defects = sampler.fitting(image, lambda: _compare_batches(sampler, image))
    if isinstance(module, torch.nn.Module) and module.training:
        defects.append(Defect("The classifier was in train mode; it runs in eval mode."))
    if not isinstance(module, torch.nn.Module):
        defects.append(Defect("The classifier is no torch module: its parameters are not known."))
    if sampler.classifier.parts().state != before.state:
        defects.append(CHANGED_STATE)
    if _generators() != generators:
        defects.append(Defect("The classifier draws from a global random generator."))
    return defects


def _compare_batches(sampler: Sampler, image: torch.Tensor) -> list[Defect]:
    """Return the defects that the logits of three batches show."""
    assert sampler.batch_size is not None
    fixed = sampler.classifier.fixed_shape
    size = sampler.batch_size if fixed else min(2 * _ROWS, sampler.batch_size)
    rows = min(_ROWS, (size + 1) // 2)
    copies = _noisy(sampler, image, rows, 0)
    mates = _noisy(sampler, torch.zeros_like(image), size - rows, rows)
    others = _noisy(sampler, 1 - image, size - rows, size)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(0)).to(image.device)

    batch = torch.cat([copies, mates])
    given = batch.clone()
    with sampler.classifier.running():
        logits = sampler.classifier.logits
        first = logits(batch.clone())[:rows]
        again = logits(given)[:rows]
        permuted = logits(torch.cat([others, copies[order]]))[size - rows :]
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


def _noisy(sampler: Sampler, image: torch.Tensor, rows: int, first_id: int) -> torch.Tensor:
    """Return noisy copies whose noise belongs to no image of a data set: the highest ids."""
    if rows == 0:
        return sampler.classifier.empty(0, image)
    ids = 2**32 - 1 - first_id - np.arange(rows)
    return sampler.noisy(image.expand(rows, *image.shape[1:]), ids, SELECTION)


def _differ(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether labels differ, or logits by more than rounding: sqrt(eps) of their largest size."""
    slack = torch.finfo(a.dtype).eps ** 0.5 * a.nan_to_num().abs().max()
    near = torch.allclose(a.float(), b.float(), rtol=0, atol=float(slack), equal_nan=True)
    return not near or not torch.equal(a.argmax(1), b.argmax(1))


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
