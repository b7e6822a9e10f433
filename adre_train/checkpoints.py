"""Checkpoints that a kill at any moment leaves whole: written aside, made durable, then renamed."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from tcertify._files import complete

KEPT = 2
NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?\.json")

#: Whole epochs done, and steps of the next.
Place = tuple[int, int]


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on: the weights, the optimiser's tensors, and its record."""

    path: Path
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    record: dict[str, Any]


def write(
    folder: Path,
    place: Place,
    weights: dict[str, Tensor],
    optimizer: dict[str, Tensor],
    record: dict[str, Any],
    *,
    best: int | None = None,
) -> None:
    """Write the checkpoint of a place in the training; keep the last two, and that of epoch `best`.

    Three files: the weights, by the model's own names, and the optimiser's tensors, in
    safetensors; and the record in JSON, with the SHA-256 of all three. The JSON is written last, so
    a checkpoint counts from the moment it is complete. Whenever the process is killed, the
    checkpoint before stays whole.
    """
    paths = _paths(folder, place)
    contents = [save(_on_cpu(weights)), save(_on_cpu(optimizer))]
    record = {**record, "epoch": place[0], "step": place[1]}
    sums = [_sha256(content) for content in (*contents, _canonical(record))]
    text = json.dumps({"record": record, "sha256": sums}, indent=1, allow_nan=False)
    for path, content in zip(paths, [*contents, text.encode()], strict=True):
        replace(path, content)
    for old in sorted(_places(folder))[:-KEPT]:
        if old == (best, 0):
            continue
        # The record first: a checkpoint half removed must not count.
        for path in reversed(_paths(folder, old)):
            path.unlink(missing_ok=True)


def latest(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, or None where there is none.

    Warns
    -----
    RuntimeWarning
        If a newer checkpoint is damaged and was passed over.

    Raises
    ------
    ValueError
        If there are checkpoints and all are damaged.
    """
    damage = []
    for place in sorted(_places(folder), reverse=True):
        try:
            checkpoint = _read(*_paths(folder, place))
        except (OSError, ValueError) as error:
            damage.append(str(error))
            continue
        if damage:
            warnings.warn(
                f"Going on from {checkpoint.path}, for later ones are damaged: {'; '.join(damage)}",
                RuntimeWarning,
                stacklevel=2,
            )
        return checkpoint
    if damage:
        raise ValueError(f"Every checkpoint in {folder} is damaged: {'; '.join(damage)}")
    return None


def weights_path(folder: Path, epoch: int, step: int = 0) -> Path:
    """Return where the weights after so many epochs, and steps of the next, lie."""
    return _paths(folder, (epoch, step))[0]


def replace(path: Path, content: bytes) -> None:
    """Put `content` into the file at `path`, whole or not at all, and make it durable."""
    with complete(path) as file:
        file.write(content)


def _read(weights: Path, optimizer: Path, record: Path) -> Checkpoint:
    text = record.read_bytes()
    try:
        content = json.loads(text)
        *expected, of_record = content["sha256"]
        whole = _sha256(_canonical(content["record"])) == of_record
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(f"{record} ({len(text)} bytes) is no checkpoint's record")
    tensors = []
    for path, digest in zip((weights, optimizer), expected, strict=True):
        data = path.read_bytes()
        if _sha256(data) != digest:
            raise ValueError(f"{path} ({len(data)} bytes) is not what was written")
        tensors.append(load(data))
    return Checkpoint(weights, tensors[0], tensors[1], content["record"])


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _canonical(record: dict[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, allow_nan=False).encode()


def _places(folder: Path) -> list[Place]:
    """Return the places whose record lies in the folder; files of other names are passed over."""
    found = [NAME.fullmatch(path.name) for path in folder.glob("epoch-*.json")]
    return [(int(match[1]), int(match[2] or 0)) for match in found if match]


def _paths(folder: Path, place: Place) -> tuple[Path, Path, Path]:
    epoch, step = place
    stem = f"epoch-{epoch:05d}" + (f"-step-{step:07d}" if step else "")
    suffixes = (".safetensors", ".optimizer.safetensors", ".json")
    weights, optimizer, record = (folder / (stem + suffix) for suffix in suffixes)
    return weights, optimizer, record


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
