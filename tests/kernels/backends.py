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
from tests.kernels import on_cpu, on_ptx

NUMBA = "numba"
BACKENDS = (
    NUMBA,
    "torch",
    pytest.param("shim", marks=on_cpu.needs_gcc),
    *(pytest.param(f"sm_{a}", marks=on_ptx.needs_both) for a in on_ptx.ARCHITECTURES),
    pytest.param("cuda", marks=pytest.mark.gpu),
)


GAUSSIAN, INTEGER = "gaussian", "integer"
KINDS = {GAUSSIAN: {}, INTEGER: {"levels": 255}}  # and what a kind takes beside sigma


def noisy(backend, out, *arrays, kind=GAUSSIAN, **numbers):
    """A batch of noisy images on a backend: "shim" is the .cu file on the CPU, "sm_90" its PTX for
    that device, both through the device's own launcher. No row of integer noise is invalid.
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
    inputs = [*arrays, numbers["sigma"]]
    with _executed(backend, noise, "_fill_on_host", noise._fill_on_device, [out], inputs):
        return add_noise(out, *arrays, backend=backend_argument, **numbers)


def integer_noisy(backend, out, *arrays, **numbers):
    """`add_integer_noise` on a backend: the batch, and which of its rows are invalid."""
    invalid = torch.ones(len(out), dtype=torch.bool)
    if backend == "cuda":
        moved = [array.cuda() for array in (out, invalid, *arrays)]
        return add_integer_noise(*moved, **numbers).cpu(), moved[1].cpu()
    backend_argument = "torch" if backend == "torch" else None
    on_device = integer_noise._fill_on_device
    tables = integer_noise._arrays(numbers["sigma"], numbers["levels"], out.device)
    outputs, inputs = [out, invalid], [*arrays, *tables]
    with _executed(backend, integer_noise, "_fill_on_host", on_device, outputs, inputs):
        found = add_integer_noise(out, invalid, *arrays, backend=backend_argument, **numbers)
        return found, invalid


def counted(backend, counts, logits, slot, limit=None):
    """`count_votes` on a backend."""
    if backend == "cuda":
        limit = None if limit is None else limit.cuda()
        return count_votes(counts.cuda(), logits.cuda(), slot.cuda(), limit=limit).cpu()
    backend_argument = "torch" if backend == "torch" else None
    on_host, inputs = "_count_on_host", [logits, slot, limit]
    with _executed(backend, counting, on_host, counting._count_on_device, [counts], inputs):
        return count_votes(counts, logits, slot, limit=limit, backend=backend_argument)


@contextlib.contextmanager
def _executed(backend, module, on_host, on_device, outputs, inputs):
    """Send CPU tensors through the device's path, and its launches to the kernels on the CPU."""
    launches = {"shim": on_cpu.launch}
    for architecture in on_ptx.ARCHITECTURES:
        memory = [(tensor, True) for tensor in outputs]
        memory += [(tensor, False) for tensor in inputs if isinstance(tensor, torch.Tensor)]
        launches[f"sm_{architecture}"] = on_ptx.launcher(architecture, memory)
    with pytest.MonkeyPatch.context() as patch:
        if backend in launches:
            patch.setattr(module, on_host, on_device)
            patch.setattr(_cuda, "launch", launches[backend])
        yield
