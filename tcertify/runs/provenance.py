"""What a run was made with: classifier, data set, device and versions."""

from __future__ import annotations

import base64
import os
import platform
import socket
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tcertify._checks import check_whole
from tcertify.errors import RunFileError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from tcertify.classifiers import Classifier, Execution
    from tcertify.data import Dataset
    from tcertify.runs.file import RunFile
    from tcertify.runs.images import Loaded
    from tcertify.sampling import Sampler

#: Logits of the same classifier agree to this part of their size, in bfloat16 and elsewhere too.
_PROBE_ROUNDING = 0.02
_PROBED_CLASSES = 1000

#: More rows than any sampler takes.
_MOST_ROWS = 2**14

#: What, if it is allowed, keeps logits from being the same again.
_VARYING = {"random", "state"}

_EXECUTION = {
    "dtype": str,
    "channels_last": bool,
    "compile": bool,
    "tf32": bool | None,
    "fold": bool,
}


def provenance(
    classifier: Classifier,
    dataset: Dataset,
    whole: Sequence[int],
    allow: Iterable[str],
    probed: Loaded | None,
) -> dict[str, Any]:
    """Return what the rows of a run depend on besides its settings; a resume must find it again.

    `probed` is an image that is whole; the classifier's logits near it are kept, since a
    fingerprint does not see everything.
    """
    from tcertify.data.fingerprint import data_fingerprint

    return {
        "probe": None if probed is None or _VARYING & {*allow} else _probe(classifier, probed),
        **asdict(classifier.execution),
        "tf32_of_torch": _tf32_of_torch(classifier),
        "allow": sorted(set(allow)),
        "model": classifier.fingerprint(),
        "data": data_fingerprint(dataset, sorted(whole)),
        **here(classifier.device),
    }


def here(device: torch.device) -> dict[str, str]:
    """Return the kind of device and the versions that logits may depend on in their last bits."""
    import torch

    return {
        "device": _kind(device),
        "torch": str(torch.__version__),
        "tcertify": _installed("tcertify"),
    }


def environment(sampler: Sampler, memory_kept: bool) -> dict[str, Any]:
    """Return facts recorded with a run that do not affect its rows."""
    import torch

    packages = ("numpy", "scipy", "numba", "cupy-cuda12x", "cupy-cuda13x")
    return {
        **process(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "batch_size": sampler.batch_size,
        "memory_kept": memory_kept,
        "classifier": type(sampler.classifier.module).__qualname__,
        **{package: _installed(package) for package in packages},
    }


def process() -> dict[str, Any]:
    """Return what tells this process: since when, where, and its number."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


def recorded_allow(path: Path, parameters: dict[str, Any]) -> list[str]:
    """Return the defects that a run accepted."""
    allow = parameters.get("allow")
    if not isinstance(allow, list) or not all(isinstance(code, str) for code in allow):
        raise RunFileError(f"`{path}` does not say `allow`, which a replay needs.")
    return allow


def recorded_execution(path: Path, parameters: dict[str, Any]) -> Execution:
    """Return how the classifier of a run file was executed."""
    from tcertify.classifiers import Execution

    values = {"fold": False, **parameters}  # of which older files do not speak
    values = {name: values.get(name) for name in _EXECUTION}
    for name, kind in _EXECUTION.items():
        if not isinstance(values[name], kind):
            raise RunFileError(f"`{path}` does not say `{name}`, which a replay needs.")
    try:
        return Execution(**values)
    except ValueError as error:
        raise RunFileError(f"`{path}` has parameters that make no sense: {error}") from None


def recorded_rows(run: RunFile) -> int | None:
    """Return the rows of a forward pass of a run: last bits of logits may depend on them."""
    rows = run.environment.get("batch_size")
    return rows if type(rows) is int and 0 < rows <= _MOST_ROWS else None


def check_same_inputs(
    path: Path,
    parameters: dict[str, Any],
    whole: Sequence[int],
    classifier: Classifier,
    dataset: Dataset,
) -> None:
    """Raise unless a run was made with this classifier and this data set."""
    from tcertify.data.fingerprint import data_fingerprint

    if classifier.fingerprint() != parameters.get("model"):
        raise RunFileError(f"`{path}` was made with another model: the fingerprints differ.")
    if data_fingerprint(dataset, sorted(whole)) != parameters.get("data"):
        raise RunFileError(f"`{path}` was made from other data: the fingerprints differ.")


def check_probe(
    path: Path, parameters: dict[str, Any], classifier: Classifier, dataset: Dataset
) -> None:
    """Raise unless the classifier gives the logits that a run recorded, up to rounding."""
    from tcertify.runs.images import load_images

    recorded = _recorded_probe(path, parameters)
    if recorded is None:
        return
    image_id, there = recorded
    (image,) = load_images(
        dataset,
        [image_id],
        classifier.device,
        classifier.num_classes,
        recorded_allow(path, parameters),
    )
    if image.error is not None:
        raise RunFileError(f"Image {image_id}, by which `{path}` knows its model: {image.error}.")
    found = np.frombuffer(base64.b64decode(_probe(classifier, image)["logits"]), "<f4")
    if there.shape != found.shape or not _agree(there, found, classifier.num_classes):
        raise RunFileError(
            f"`{path}` was made with another model: on image {image_id} its logits differ, though"
            " its parameters are the same."
        )


def check_same_probe(
    a: Path, b: Path, there: dict[str, Any], here: dict[str, Any], num_classes: int
) -> None:
    """Raise unless two runs recorded the same logits, up to rounding; of other images, pass."""
    first, second = _recorded_probe(a, there), _recorded_probe(b, here)
    if first is None or second is None or first[0] != second[0]:
        return
    if first[1].shape != second[1].shape or not _agree(first[1], second[1], num_classes):
        raise RunFileError(
            f"`{a}` and `{b}` were made with other models: on image {first[0]} their logits differ,"
            " though their parameters are the same."
        )


def _recorded_probe(
    path: Path, parameters: dict[str, Any]
) -> tuple[int, NDArray[np.float32]] | None:
    """Return the image that a run was probed on, and the logits, if it was."""
    recorded = parameters.get("probe")
    if recorded is None:
        return None
    try:
        logits = np.frombuffer(base64.b64decode(recorded["logits"]), "<f4")
        return check_whole("image_id", recorded["image_id"], minimum=0), logits
    except (TypeError, KeyError, ValueError) as error:
        raise RunFileError(f"`{path}` holds no probe that can be read: {error}.") from None


def _agree(a: NDArray[np.float32], b: NDArray[np.float32], num_classes: int) -> bool:
    """Whether two probes agree, up to rounding, in each class by its own size."""
    width = min(num_classes, _PROBED_CLASSES)
    there, here = (x.reshape(-1, width).astype(np.float64) for x in (a, b))
    sizes = np.where(np.isfinite(there), abs(there), 0)
    slack = _PROBE_ROUNDING * (sizes.max(0) + np.median(sizes))
    with np.errstate(invalid="ignore"):  # inf - inf
        near = (there == here) | (np.isnan(there) & np.isnan(here)) | (abs(there - here) <= slack)
    return bool(near.all())


def _probe(classifier: Classifier, image: Loaded) -> dict[str, Any]:
    logits = np.frombuffer(classifier.probe(image.pixels), np.float32)
    kept = logits.reshape(-1, classifier.num_classes)[:, :_PROBED_CLASSES]
    content = np.ascontiguousarray(kept, "<f4").tobytes()
    return {"image_id": image.image_id, "logits": base64.b64encode(content).decode()}


def _tf32_of_torch(classifier: Classifier) -> list[str] | None:
    """Return how torch is set to multiply and to convolve float32, where the run leaves it so."""
    import torch

    if classifier.device.type != "cuda" or classifier.execution.tf32 is not None:
        return None
    backends = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    return [str(backend.fp32_precision) for backend in backends]


def _kind(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    return f"{device.type}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
