"""What is compared: ours, torch's operations, what the field runs, numpy. One call each.

A case holds the tensors of one batch; an implementation takes the case and returns its result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tcertify_kernels import add_integer_noise, add_noise, count_votes

SIGMA, SEED, STREAM = 0.5, 7, 1
LEVELS = 255


@dataclass
class NoiseCase:
    """A batch of noisy copies of one image."""

    out: Tensor
    x: Tensor
    slot: Tensor
    image: Tensor
    sample: Tensor

    @cached_property
    def invalid(self) -> Tensor:
        """Where integer noise says that a row must not vote."""
        return torch.empty(len(self.out), dtype=torch.bool, device=self.out.device)

    @cached_property
    def out_of_cupy(self) -> Any:
        """The memory of `out` as CuPy's array."""
        import cupy

        return cupy.asarray(self.out)


def noise_case(
    shape: tuple[int, ...], dtype: torch.dtype, device: str, channels_last: bool = False
) -> NoiseCase:
    """Tensors of one batch; the output is filled with NaN."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    out = torch.full(shape, torch.nan, dtype=dtype, device=device).to(memory_format=layout)
    x = torch.randint(LEVELS + 1, (1, *shape[1:]), generator=torch.Generator().manual_seed(0))
    x = x / LEVELS
    x = x.to(device)
    rows = torch.zeros(shape[0], dtype=torch.int64, device=device)
    sample = torch.arange(shape[0], device=device)
    return NoiseCase(out, x, rows.int(), rows, sample)


def noise_ours(case: NoiseCase) -> Tensor:
    """One pass, and the noise of every row is known by its number."""
    arrays = case.out, case.x, case.slot, case.image, case.sample
    return add_noise(*arrays, sigma=SIGMA, seed=SEED, stream=STREAM)


def noise_integer(case: NoiseCase) -> Tensor:
    """The same, rounded to whole grey levels of 255 and drawn exactly."""
    arrays = case.out, case.invalid, case.x, case.slot, case.image, case.sample
    return add_integer_noise(*arrays, sigma=SIGMA, levels=LEVELS, seed=SEED, stream=STREAM)


def noise_torch(case: NoiseCase) -> Tensor:
    """Three operations of torch, in place, and in the dtype of the output."""
    return case.out.normal_().mul_(SIGMA).add_(case.x)


def noise_field(case: NoiseCase) -> Tensor:
    """What smoothing code runs: repeat, randn_like, multiply, add, in float32; then the dtype."""
    batch = case.x.repeat((len(case.out), *[1] * (case.x.dim() - 1)))
    return (batch + torch.randn_like(batch) * SIGMA).to(case.out.dtype)


def noise_numpy(case: NoiseCase) -> Tensor:
    """Normals of numpy, in float32."""
    z = np.random.default_rng(SEED).standard_normal(tuple(case.out.shape), dtype=np.float32)
    return torch.from_numpy(case.x.numpy() + np.float32(SIGMA) * z)


def normals_torch(case: NoiseCase) -> Tensor:
    """Normals alone, without an image."""
    return case.out.normal_()


NOISE: dict[str, Callable[[NoiseCase], Tensor]] = {
    "ours": noise_ours,
    "ours, integer": noise_integer,
    "torch": noise_torch,
    "field": noise_field,
    "numpy": noise_numpy,
    "normals": normals_torch,
}


@cache
def _generator_of_cupy() -> Any:
    import cupy

    return cupy.random.Generator(cupy.random.Philox4x3210(SEED))


def normals_cupy(case: NoiseCase) -> Tensor:
    """Normals alone, by CuPy's Philox, into memory that is there; float32."""
    import cupy

    with cupy.cuda.Stream.from_external(torch.cuda.current_stream()):
        _generator_of_cupy().standard_normal(case.out.shape, np.float32, case.out_of_cupy)
    return case.out


#: On a device; CuPy knows no bfloat16.
NOISE_ON_A_DEVICE: dict[str, Callable[[NoiseCase], Tensor]] = {
    **{name: NOISE[name] for name in ("ours", "ours, integer", "torch", "field", "normals")},
    "cupy normals": normals_cupy,
}


def check_noise(case: NoiseCase, result: Tensor, name: str) -> None:
    """Assert that the result is the image plus noise of the right size (or the noise alone), and
    under integer noise that it is on the grid, with no row that must not vote.
    """
    alone = name.endswith("normals")
    noise = result.double() - (0 if alone else case.x.double())
    sigma = 1.0 if alone else SIGMA
    off = 6 / result.numel() ** 0.5 + 2e-3  # six standard deviations, and the rounding to bfloat16
    assert result.shape == case.out.shape
    assert abs(noise.mean().item()) < sigma * off
    assert abs(noise.std().item() / sigma - 1) < off
    if name == "ours, integer":
        assert not case.invalid.any()
        levels = (result.double() * LEVELS).round() / LEVELS
        assert torch.equal(levels.to(result.dtype), result)


@dataclass
class VoteCase:
    """Logits of one batch for one image."""

    counts: Tensor
    logits: Tensor
    slot: Tensor


def vote_case(rows: int, classes: int, dtype: torch.dtype, device: str) -> VoteCase:
    """Random logits, and no votes yet."""
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(rows, classes, generator=generator).to(dtype).to(device)
    counts = torch.zeros(1, classes + 1, dtype=torch.int64, device=device)
    return VoteCase(counts, logits, torch.zeros(rows, dtype=torch.int32, device=device))


def votes_ours(case: VoteCase) -> Tensor:
    """Argmax and count at once, on the device."""
    return count_votes(case.counts, case.logits, case.slot)


def votes_torch(case: VoteCase) -> Tensor:
    """Argmax, bincount, add: on the device, NaN not told apart."""
    found = torch.bincount(case.logits.argmax(1), minlength=case.counts.shape[1])
    return case.counts.add_(found)


def votes_field(case: VoteCase) -> Tensor:
    """What smoothing code runs: argmax, a copy to the host, a loop in Python."""
    found = np.zeros(case.counts.shape[1], dtype=int)
    for label in case.logits.argmax(1).cpu().numpy():
        found[label] += 1
    return case.counts.add_(torch.from_numpy(found).to(case.counts.device))


def votes_numpy(case: VoteCase) -> Tensor:
    """Argmax and bincount of numpy."""
    labels = case.logits.numpy().argmax(1)
    return case.counts.add_(torch.from_numpy(np.bincount(labels, minlength=case.counts.shape[1])))


VOTES: dict[str, Callable[[VoteCase], Tensor]] = {
    "ours": votes_ours,
    "torch": votes_torch,
    "field": votes_field,
    "numpy": votes_numpy,
}


VOTES_ON_A_DEVICE = {name: VOTES[name] for name in ("ours", "torch", "field")}


def check_votes(case: VoteCase, before: Tensor, after: Tensor) -> None:
    """Assert that one batch was counted: each row once, for the first of its largest logits."""
    best = case.logits == case.logits.amax(dim=1, keepdim=True)
    column = torch.arange(case.logits.shape[1], device=best.device)
    first = torch.where(best, column, case.logits.shape[1]).amin(dim=1)
    assert torch.equal(after - before, torch.bincount(first, minlength=after.numel())[None])


class ResidualNet(torch.nn.Module):
    """A small residual network with random weights: the time of a forward pass, no skill."""

    def __init__(self, classes: int = 10, width: int = 32, blocks: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = torch.nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norms = torch.nn.ModuleList(torch.nn.BatchNorm2d(width) for _ in range(2 * blocks))
        self.layers = torch.nn.ModuleList(
            torch.nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2 * blocks)
        )
        self.head = torch.nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        x = self.stem(x)
        for first in range(0, len(self.layers), 2):
            y = self.layers[first](self.norms[first](x).relu())
            x = x + self.layers[first + 1](self.norms[first + 1](y).relu())
        return self.head(x.mean((2, 3)))


@dataclass
class CertificationCase:
    """One image to certify."""

    network: torch.nn.Module
    x: Tensor
    n0: int
    n: int
    batch_size: int


def certification_case(device: str, n: int, batch_size: int) -> CertificationCase:
    """A random image and a random network."""
    network = ResidualNet().eval().to(device)
    x = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    return CertificationCase(network, x, 100, n, batch_size)


def certify_ours(case: CertificationCase) -> tuple[int, int]:
    """The chosen class and its votes by `SmoothedClassifier`, as `Smooth` runs it."""
    from tcertify import SmoothedClassifier

    limit = case.batch_size
    smoothed = SmoothedClassifier(case.network, 10, SIGMA, seed=SEED, batch_size=limit)
    certificate = smoothed.certify(case.x, case.n0, case.n, image_id=0)
    return certificate.top, int(certificate.counts[certificate.top])


def certify_field(case: CertificationCase) -> tuple[int, int]:
    """The chosen class and its votes by the loop that smoothing code runs."""
    votes = partial(field_votes, case.network, case.x, SIGMA, batch_size=case.batch_size)
    top = int(votes(n=case.n0).argmax())
    return top, int(votes(n=case.n)[top])


@torch.no_grad()
def field_votes(
    network: torch.nn.Module, x: Tensor, sigma: float, n: int, batch_size: int, classes: int = 10
) -> NDArray[np.int64]:
    """The field's loop: a batch of copies, noise, forward pass, argmax, labels to Python."""
    counts = np.zeros(classes, dtype=np.int64)
    while n > 0:
        size = min(batch_size, n)
        n -= size
        batch = x.repeat((size, 1, 1, 1))
        noise = torch.randn_like(batch) * sigma
        for label in network(batch + noise).argmax(1).cpu().numpy():
            counts[label] += 1
    return counts


CERTIFICATION: dict[str, Callable[[CertificationCase], tuple[int, int]]] = {
    "ours": certify_ours,
    "field": certify_field,
}


def check_certification(case: CertificationCase, first: tuple[int, int], name: str) -> None:
    """Assert that both sample the same classifier: one class, votes within six deviations."""
    top, votes = certify_field(case)
    assert first[0] == top, name
    assert abs(first[1] - votes) <= 6 * (2 * case.n * 0.25) ** 0.5, name
