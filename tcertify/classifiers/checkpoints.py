"""Checkpoints that this package or the field wrote, read without running code."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn


def load_published(model: nn.Module, path: str | Path) -> None:
    """Load into `model` a checkpoint that this package or the field wrote.

    A ``.safetensors`` file holds the parameters; any other is what ``torch.save`` wrote, either
    the parameters or a dict with them under "state_dict", and is read with ``weights_only``, so
    that it executes nothing. The "module." that DataParallel puts into names is taken out.

    Raises
    ------
    ValueError
        If the file is no checkpoint, is for another architecture, or holds a weight that is not
        finite; the message names the file and what is wrong with it. `model` is then unchanged.
    """
    path = Path(path)
    state = {
        ".".join(part for part in name.split(".") if part != "module"): tensor
        for name, tensor in _read_state(path).items()
    }
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
        if not tensor.isfinite().all():
            raise ValueError(f"{source} holds a weight that is not finite, in {name!r}.")


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is no checkpoint that can be read: {error}"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError(f"{path} holds no parameters by name.")
    return state
