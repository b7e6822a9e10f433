"""One way to call each backend, so that one test body serves them all. Tensors are on the CPU."""

import contextlib

import pytest
import torch

from tcertify_kernels import (
    _cuda,
    add_integer_noise,
    add_noise,
    count_votes,
    counting,
    integer_noise,
    noise,
)
from tests.kernels import on_cpu

NUMBA = "numba"
BACKENDS = (
    NUMBA,
    "torch",
    pytest.param("shim", marks=on_cpu.needs_gcc),
    pytest.param("cuda", marks=pytest.mark.gpu),
)


GAUSSIAN, INTEGER = "gaussian", "integer"
KINDS = {GAUSSIAN: {}, INTEGER: {"levels": 255}}  # and what a kind takes beside sigma


def noisy(backend, out, *arrays, kind=GAUSSIAN, **numbers):
    """A batch of noisy images on a backend: "shim" is the .cu file on the CPU, through its own
    launcher. No row of integer noise is invalid.
    """
    if kind == INTEGER:
        out, invalid = integer_noisy(backend, out, *arrays, **KINDS[INTEGER] | numbers)
        assert not invalid.any()
        return out
    if backend == "cuda":
        moved = [array.cuda() for array in (out, *arrays)]
        sigma = numbers.pop("sigma")
        sigma = sigma.cuda() if isinstance(sigma, torch.Tensor) else sigma
        return add_noise(*moved, sigma=sigma, **numbers).cpu()
    backend_argument = "torch" if backend == "torch" else None
    with _shimmed(backend, noise, "_fill_on_host", noise._fill_on_device):
        return add_noise(out, *arrays, backend=backend_argument, **numbers)


def integer_noisy(backend, out, *arrays, **numbers):
    """`add_integer_noise` on a backend: the batch, and which of its rows are invalid."""
    invalid = torch.ones(len(out), dtype=torch.bool)
    if backend == "cuda":
        moved = [array.cuda() for array in (out, invalid, *arrays)]
        return add_integer_noise(*moved, **numbers).cpu(), moved[1].cpu()
    backend_argument = "torch" if backend == "torch" else None
    with _shimmed(backend, integer_noise, "_fill_on_host", integer_noise._fill_on_device):
        return add_integer_noise(
            out, invalid, *arrays, backend=backend_argument, **numbers
        ), invalid


def counted(backend, counts, logits, slot, limit=None):
    """`count_votes` on a backend."""
    if backend == "cuda":
        limit = None if limit is None else limit.cuda()
        return count_votes(counts.cuda(), logits.cuda(), slot.cuda(), limit=limit).cpu()
    backend_argument = "torch" if backend == "torch" else None
    with _shimmed(backend, counting, "_count_on_host", counting._count_on_device):
        return count_votes(counts, logits, slot, limit=limit, backend=backend_argument)


@contextlib.contextmanager
def _shimmed(backend, module, on_host, on_device):
    """Send CPU tensors through the device's path, and its launches to the shim."""
    with pytest.MonkeyPatch.context() as patch:
        if backend == "shim":
            patch.setattr(module, on_host, on_device)
            patch.setattr(_cuda, "launch", on_cpu.launch)
        yield
