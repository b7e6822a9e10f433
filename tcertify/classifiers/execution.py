"""How a base classifier is executed: precision, layout, compilation, eval mode.

A certificate speaks of the classifier as executed, so these choices belong to it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

BaseClassifier = Callable[[torch.Tensor], torch.Tensor]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Execution:
    """How the base classifier runs.

    Parameters
    ----------
    dtype : {"float32", "bfloat16", "float16"}
        Of its parameters and of the noisy images. The noise is added in float32, then rounded.
    channels_last : bool
        Memory layout of the noisy images, which are then (C, H, W), and of the parameters.
    compile : bool
        Run it through ``torch.compile``.
    tf32 : bool
        Let a GPU multiply float32 in TF32, in matrix products and convolutions alike.
    """

    dtype: str = "float32"
    channels_last: bool = False
    compile: bool = False
    tf32: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {self.dtype!r}.")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch knows it."""
        return DTYPES[self.dtype]

    def prepare(self, base_classifier: BaseClassifier) -> tuple[BaseClassifier, BaseClassifier]:
        """Return the classifier, converted as a copy where need be, and what to call for it."""
        prepared = base_classifier
        if isinstance(prepared, torch.nn.Module) and (
            self.dtype != "float32" or self.channels_last
        ):
            prepared = copy.deepcopy(prepared).to(self.torch_dtype)
            if self.channels_last:
                prepared = prepared.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.compile:
            compiled: BaseClassifier = torch.compile(prepared, dynamic=False)
            return prepared, compiled
        return prepared, prepared

    def empty(self, rows: int, images: torch.Tensor) -> torch.Tensor:
        """Return an empty batch of noisy images on the device of `images` (S, ...)."""
        if self.channels_last and images.dim() != 4:
            raise ValueError(
                f"`channels_last` needs images of shape (C, H, W), got {tuple(images.shape[1:])}."
            )
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        shape = (rows, *images.shape[1:])
        return torch.empty(
            shape, dtype=self.torch_dtype, device=images.device, memory_format=layout
        )

    @contextmanager
    def running(self, classifier: BaseClassifier, device: torch.device) -> Iterator[None]:
        """Eval mode, no autograd, no autocast of the surroundings, TF32 as stated; all restored."""
        with (
            evaluating(classifier),
            torch.inference_mode(),
            torch.autocast(device.type, enabled=False),
            _tf32(self.tf32),
        ):
            yield


@contextmanager
def evaluating(base_classifier: BaseClassifier) -> Iterator[None]:
    """Put every submodule into eval mode; restore each one's own mode, exceptions included."""
    modules = (
        list(base_classifier.modules()) if isinstance(base_classifier, torch.nn.Module) else []
    )
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    backends: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn.conv]  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "tf32" if allowed else "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
