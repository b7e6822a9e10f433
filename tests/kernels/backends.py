"""One way to call each backend, so that one test body serves them all. Tensors are on the CPU."""

import contextlib

import pytest
import torch

from tcertify_kernels import _cuda, add_noise, count_votes, counting, noise
from tests.kernels import on_cpu, on_ptx

NUMBA = "numba"
BACKENDS = (
    NUMBA,
    "torch",
    pytest.param("shim", marks=on_cpu.needs_gcc),
    *(pytest.param(f"sm_{a}", marks=on_ptx.needs_both) for a in on_ptx.ARCHITECTURES),
    pytest.param("cuda", marks=pytest.mark.gpu),
)


def noisy(backend, out, *arrays, mean=None, std=None, **numbers):
    """`add_noise` on a backend: "shim" is the .cu file on the CPU, "sm_90" its PTX for that device,
    both through the device's own launcher.
    """
    if backend == "cuda":
        moved = [array.cuda() for array in (out, *arrays)]
        sigma = numbers.pop("sigma")
        sigma = sigma.cuda() if isinstance(sigma, torch.Tensor) else sigma
        mean, std = (None, None) if mean is None else (mean.cuda(), std.cuda())
        return add_noise(*moved, sigma=sigma, mean=mean, std=std, **numbers).cpu()
    backend_argument = "torch" if backend == "torch" else None
    inputs = [*arrays, mean, std, numbers["sigma"]]
    with _executed(backend, noise, "_fill_on_host", noise._fill_on_device, out, inputs):
        return add_noise(out, *arrays, mean=mean, std=std, backend=backend_argument, **numbers)


def counted(backend, counts, logits, slot, limit=None):
    """`count_votes` on a backend."""
    if backend == "cuda":
        limit = None if limit is None else limit.cuda()
        return count_votes(counts.cuda(), logits.cuda(), slot.cuda(), limit=limit).cpu()
    backend_argument = "torch" if backend == "torch" else None
    on_host, inputs = "_count_on_host", [logits, slot, limit]
    with _executed(backend, counting, on_host, counting._count_on_device, counts, inputs):
        return count_votes(counts, logits, slot, limit=limit, backend=backend_argument)


@contextlib.contextmanager
def _executed(backend, module, on_host, on_device, output, inputs):
    """Send CPU tensors through the device's path, and its launches to the kernels on the CPU."""
    launches = {"shim": on_cpu.launch}
    for architecture in on_ptx.ARCHITECTURES:
        tensors = [(tensor, False) for tensor in inputs if isinstance(tensor, torch.Tensor)]
        launches[f"sm_{architecture}"] = on_ptx.launcher(architecture, [(output, True), *tensors])
    with pytest.MonkeyPatch.context() as patch:
        if backend in launches:
            patch.setattr(module, on_host, on_device)
            patch.setattr(_cuda, "launch", launches[backend])
        yield
