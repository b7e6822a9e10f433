"""Base classifiers by name: functions of the user's, checkpoints, timm's networks, ONNX files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tcertify._named import call_named, find_named, is_named, split_call
from tcertify.classifiers.checkpoints import Checkpoint, check_state, read_checkpoint
from tcertify.classifiers.networks import ARCHITECTURES, DigitsNet, build
from tcertify.classifiers.standardise import CONSTANTS, standardising_layer

#: What a file may end in to be read as a checkpoint that ``torch.save`` wrote.
PICKLES = (".pt", ".pth", ".tar", ".ckpt")


def load(
    name: str, *, normalize: str | None = None, arguments: Mapping[str, Any] | None = None
) -> nn.Module:
    """Load the base classifier called `name`, in eval mode; nothing in a file is executed.

    Parameters
    ----------
    name : str
        - ``package.module:function``, which returns a torch module; arguments may follow, as in
          ``my:net(depth=20)``. The working directory is searched first.
        - A ``.safetensors`` checkpoint. Its record, the ``.json`` beside it that ``adre-train``
          wrote, names the architecture; without one it is a checkpoint of `DigitsNet`.
        - A checkpoint of the field: what ``torch.save`` wrote of a dict with ``arch`` and
          ``state_dict``. It does not say how its images are standardised, and the wrong constants
          load silently, so `normalize` must.
        - ``timm:NAME``, a pretrained network, standardised as timm's record of it says.
        - The path of an ``.onnx`` file.
    normalize : str, optional
        ``"cifar10"``, ``"imagenet"``, ``"none"`` or ``MEAN/STD``; see `standardising_layer`.
    arguments : mapping, optional
        Keyword arguments for the function.

    Raises
    ------
    ValueError
        Nothing of that name, or not what it should be; the message says what was found.
    ModuleNotFoundError
        timm or onnxruntime is not installed.
    """
    path = Path(name)
    if arguments and not is_named(name):
        raise ValueError(f"`arguments` are for a function, not for {name}.")
    if path.suffix == ".safetensors":
        model = _from_safetensors(path, normalize)
    elif path.suffix in PICKLES:
        model = _from_the_field(path, normalize)
    elif path.suffix == ".onnx":
        model = _from_onnx(path, normalize)
    elif name.startswith("timm:"):
        model = _from_timm(name.partition(":")[2], normalize)
    elif is_named(name):
        model = _from_function(name, normalize, arguments or {})
    else:
        raise ValueError(
            "MODEL must be package.module:function, timm:NAME, or a file that ends in"
            f" .safetensors, .onnx, {', '.join(PICKLES)}, got {name!r}."
        )
    return model.eval()


def new(architecture: str, num_classes: int, normalize: str | None = None) -> nn.Module:
    """Return a network with fresh weights.

    Parameters
    ----------
    architecture : str
        A name that `build` knows, or ``package.module:function``, called with `num_classes`.
    num_classes : int
    normalize : str, optional
        As in `build`.

    Raises
    ------
    ValueError
        Nothing of that name, or the function returns no torch module.
    """
    if not is_named(architecture):
        return build(architecture, num_classes, normalize)
    path, arguments = split_call(architecture, "ARCHITECTURE")
    function = find_named(path, "ARCHITECTURE")
    if not callable(function):
        raise ValueError(
            f"ARCHITECTURE {architecture} must be a function, got {type(function).__name__}."
        )
    made = call_named(function, architecture, "ARCHITECTURE", num_classes, **arguments)
    if not isinstance(made, nn.Module):
        raise ValueError(
            f"ARCHITECTURE {architecture} must return a torch module, got {type(made).__name__}."
        )
    return made if normalize is None else nn.Sequential(standardising_layer(normalize), made)


def _from_function(name: str, normalize: str | None, arguments: Mapping[str, Any]) -> nn.Module:
    path, written = split_call(name, "MODEL")
    function = find_named(path, "MODEL")
    if isinstance(function, nn.Module):
        made: Any = function
    elif callable(function):
        made = call_named(function, name, "MODEL", **{**written, **arguments})
    else:
        raise ValueError(f"MODEL {name} must be a function, got {type(function).__name__}.")
    if not isinstance(made, nn.Module):
        raise ValueError(f"MODEL {name} must return a torch module, got {type(made).__name__}.")
    return made if normalize is None else nn.Sequential(standardising_layer(normalize), made)


def _from_safetensors(path: Path, normalize: str | None) -> nn.Module:
    checkpoint = _read(path)
    if checkpoint.architecture is None:
        model: nn.Module = DigitsNet()
        if set(checkpoint.state) != set(model.state_dict()):
            raise ValueError(
                f"MODEL {path} is no checkpoint of the digits network, and no record beside it"
                f" ({path.with_suffix('.json').name}) names another architecture."
            )
    else:
        model = new(checkpoint.architecture, _classes(path, checkpoint), normalize)
        normalize = None  # it is in the network that was built
    _fill(model, checkpoint, path)
    return model if normalize is None else nn.Sequential(standardising_layer(normalize), model)


def _from_the_field(path: Path, normalize: str | None) -> nn.Module:
    checkpoint = _read(path)
    said = (checkpoint.architecture or "").replace("_", "-")
    if said not in ARCHITECTURES:
        raise ValueError(
            f"MODEL {path} says that its architecture is {checkpoint.architecture!r}; tcertify"
            f" builds {', '.join(ARCHITECTURES)}. Build another in a function of your own, and give"
            " MODEL as package.module:function."
        )
    if normalize is None:
        raise ValueError(
            f"MODEL {path} does not say how its images are standardised, and the wrong constants"
            f" load silently: give --normalize {'|'.join(CONSTANTS)} or MEAN/STD."
        )
    model = build(said, _classes(path, checkpoint), normalize)
    _fill(model, checkpoint, path)
    return model


def _from_onnx(path: Path, normalize: str | None) -> nn.Module:
    from tcertify.classifiers.adapters import from_onnx

    model = from_onnx(path)
    return model if normalize is None else nn.Sequential(standardising_layer(normalize), model)


def _from_timm(name: str, normalize: str | None) -> nn.Module:
    try:
        import timm
    except Exception as error:  # timm needs torchvision, which beside another torch fails its way
        raise ModuleNotFoundError(f"timm cannot be imported ({error}): pip install timm.") from None
    if name not in timm.list_models(pretrained=True):
        raise ValueError(f"MODEL timm:{name}: timm has no pretrained network of that name.")
    body = timm.create_model(name, pretrained=True)
    constants = body.pretrained_cfg
    own = "/".join(",".join(map(str, constants[part])) for part in ("mean", "std"))
    return nn.Sequential(standardising_layer(normalize or own), body)


def _read(path: Path) -> Checkpoint:
    if not path.is_file():
        found = ", ".join(sorted(p.name for p in path.parent.glob(f"*{path.suffix}"))) or "none"
        raise ValueError(f"MODEL {path} does not exist; checkpoints beside it: {found}.")
    try:
        return read_checkpoint(path)
    except ValueError as error:
        raise ValueError(f"MODEL {error}") from None


def _classes(path: Path, checkpoint: Checkpoint) -> int:
    """Return the number of classes: what the record says, else the rows of the last layer."""
    if checkpoint.num_classes is not None:
        return checkpoint.num_classes
    last = [tensor for tensor in checkpoint.state.values() if tensor.dim() == 2]
    if not last:
        raise ValueError(f"MODEL {path} has no linear layer that tells the number of classes.")
    return len(last[-1])


def _fill(model: nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    check_state(model, checkpoint.state, f"MODEL {path}")
    model.load_state_dict(checkpoint.state, strict=False)
