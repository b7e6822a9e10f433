"""Checkpoints that this package or the field wrote, read without running code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The parameters of a network by name, and what the file says of it, where it says so.

    The "module." that DataParallel puts into names is taken out.
    """

    state: dict[str, Tensor]
    architecture: str | None = None
    num_classes: int | None = None


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint that this package or the field wrote.

    A ``.safetensors`` file holds the parameters, and the record beside it, of the same name with
    ``.json``, names the architecture where there is one. Any other file is what ``torch.save``
    wrote, either the parameters or a dict with them under "state_dict" and the architecture under
    "arch", and is read with ``weights_only``, so that it executes nothing.

    Raises
    ------
    ValueError
        The file is no checkpoint; the message names the file and what is wrong with it.
    FileNotFoundError
        There is no such file.
    """
    path = Path(path)
    content = _content(path)
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError(f"{path} holds no parameters by name.")
    named = {
        ".".join(part for part in str(name).split(".") if part != "module"): tensor
        for name, tensor in state.items()
    }
    if len(named) < len(state):
        raise ValueError(f"{path} holds a parameter twice, under names that differ by 'module.'.")
    if path.suffix == ".safetensors":
        return Checkpoint(named, *_recorded(path.with_suffix(".json")))
    architecture = content.get("arch")
    return Checkpoint(named, architecture if isinstance(architecture, str) else None)


def load_published(model: nn.Module, path: str | Path) -> None:
    """Load into `model` a checkpoint that this package or the field wrote; see `read_checkpoint`.

    Raises
    ------
    ValueError
        If the file is no checkpoint, is for another architecture, or holds a weight that is not a
        finite number of the model's kind; the message names the file and what is wrong with it.
        `model` is then unchanged.
    """
    state = read_checkpoint(path).state
    check_state(model, state, str(path))
    model.load_state_dict(state, strict=False)


def check_state(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Raise unless `state` fits `model`, name for name and shape for shape, and is finite.

    BatchNorm's count of batches, which old files lack, may be missing.
    """
    own = model.state_dict()
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    extra = [name for name in state if name not in own]
    shaped = [n for n in state if n in own and state[n].shape != own[n].shape]
    for what, names in (("lacks", missing), ("adds", extra), ("has other shapes for", shaped)):
        if names:
            raise ValueError(
                f"{source} is for another architecture: it {what} {len(names)} of the model's "
                f"{len(own)} entries, such as {names[0]!r}."
            )
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise ValueError(f"{source} holds no plain array of numbers for {name!r}.")
        if tensor.is_floating_point() != own[name].is_floating_point() or tensor.is_complex():
            raise ValueError(f"{source} holds {tensor.dtype} for {name!r}.")
        if not tensor.to(own[name].dtype).isfinite().all():
            raise ValueError(f"{source} holds a weight that is not finite, in {name!r}.")


def _content(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged or hostile file raises almost anything
        size = path.stat().st_size
        if "Unsupported global" in str(error):
            raise ValueError(
                f"{path} ({size} bytes) holds more than weights, and is not read: whoever made it"
                " could run code here."
            ) from None
        # torch's own advice is to switch the protection off
        said = str(error) or f"{type(error).__name__} ends the reading"
        reason = "torch.save did not write it" if "weights_only" in said else said.splitlines()[0]
        raise ValueError(
            f"{path} ({size} bytes) is no checkpoint that can be read: {reason}"
        ) from error


def _recorded(record: Path) -> tuple[str | None, int | None]:
    """Return the architecture and the number of classes that a record beside a checkpoint names."""
    if not record.is_file():
        return None, None
    try:
        content = json.loads(record.read_bytes())["record"]
        architecture, classes = content["recipe"]["architecture"], content["data"]["num_classes"]
        if not (isinstance(architecture, str) and type(classes) is int and 2 <= classes <= 2**24):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(
            f"{record} names no architecture and number of classes: it is no record of adre-train's"
        ) from None
    return architecture, classes
