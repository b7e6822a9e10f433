"""Base classifiers by name: a function of the user's, or a checkpoint of the digits network."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from tcertify.classifiers.networks import DigitsNet


def load(name: str) -> nn.Module:
    """Load the base classifier called `name`, in eval mode.

    Parameters
    ----------
    name : str
        ``"package.module:function"``, a function without arguments that returns a module (the
        working directory is searched first), or the path of a ``.safetensors`` checkpoint of
        `DigitsNet`, such as the demo writes.

    Raises
    ------
    ValueError
        Nothing of that name, or not what it should be; the message says what was found.
    """
    model = _from_checkpoint(Path(name)) if name.endswith(".safetensors") else _from_function(name)
    return model.eval()


def _from_checkpoint(path: Path) -> nn.Module:
    if not path.is_file():
        found = ", ".join(sorted(p.name for p in path.parent.glob("*.safetensors"))) or "none"
        raise ValueError(f"MODEL {path} does not exist; checkpoints beside it: {found}.")
    model = DigitsNet()
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"MODEL {path} is no checkpoint of the digits network: {reason}") from None
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise ValueError(f"MODEL {path} holds parameters that are NaN or Inf.")
    return model


def _from_function(name: str) -> nn.Module:
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ValueError(
            f"MODEL must be package.module:function or a .safetensors file, got {name!r}."
        )
    sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"MODEL {name}: {error}.") from None
    finally:
        sys.path.remove("")
    function = getattr(module, function_name, None)
    if not callable(function):
        public = ", ".join(key for key, value in vars(module).items() if callable(value))
        raise ValueError(f"MODEL {name}: {module_name} has no {function_name}; it has {public}.")
    model = function()
    if not isinstance(model, nn.Module):
        raise ValueError(f"MODEL {name} must return a torch module, got {type(model).__name__}.")
    return model
