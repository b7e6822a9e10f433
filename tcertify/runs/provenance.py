"""What a run is executed on: device and versions."""

from __future__ import annotations

import os
import platform
import socket
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from tcertify.sampling.sampler import Sampler


def device_name(device: torch.device) -> str:
    """Return the kind of device that logits, and so counts, may depend on in their last bits."""
    import torch

    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    return f"{device.type}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def versions() -> dict[str, str]:
    """Return the versions that a resume must find again."""
    import torch

    return {"torch": str(torch.__version__), "tcertify": _installed("tcertify")}


def describe_environment(sampler: Sampler) -> dict[str, Any]:
    """Return what is worth knowing of a run besides what its rows depend on."""
    import torch

    packages = ("numpy", "scipy", "numba", "cupy-cuda12x", "cupy-cuda13x")
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "batch_size": sampler.batch_size,
        "classifier": type(sampler.classifier.module).__qualname__,
        **{package: _installed(package) for package in packages},
    }


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
