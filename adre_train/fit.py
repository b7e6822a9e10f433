"""Whether a network is one for the images of a data set."""

from __future__ import annotations

import torch
from torch import nn

from tcertify.classifiers import Standardise
from tcertify.classifiers.execution import evaluating


def check_fits(network: nn.Module, name: str, shape: tuple[int, ...], classes: int) -> None:
    """Raise unless `network` gives one logit for each class of an image of this shape."""
    misfit = f"The architecture does not fit {name}, of shape {shape} and {classes} classes"
    for module in network.modules():
        if isinstance(module, Standardise) and len(module.mean) != shape[0]:
            raise ValueError(f"{misfit}: it standardises {len(module.mean)} channels.")
    with evaluating(network), torch.no_grad():
        try:
            logits = network(torch.zeros(1, *shape))
        except RuntimeError as error:
            raise ValueError(f"{misfit}: {str(error).splitlines()[0]}") from error
    if tuple(logits.shape) != (1, classes):
        raise ValueError(f"{misfit}: for one image it returns {tuple(logits.shape)}.")
