"""How a base classifier is executed: precision, layout, folding, compilation, eval mode.

A certificate speaks of the classifier as executed, so these choices belong to it.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from tcertify.classifiers.folding import folded

BaseClassifier = Callable[[torch.Tensor], torch.Tensor]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Execution:
    """How the base classifier runs.

    Parameters
    ----------
    dtype : {"float32", "bfloat16", "float16"}, optional
        Of its parameters and of the noisy images; without it, the classifier's own, which is
        float32 for a plain function. The noise is added in float32, then rounded.
    channels_last : bool
        Memory layout of the noisy images, which are then (C, H, W), and of the parameters.
    compile : bool
        Run it through ``torch.compile``.
    tf32 : bool, optional
        Whether a GPU may multiply float32 in TF32, in matrix products and convolutions alike;
        without it, as torch is set, which by itself is in convolutions only.
    fold : bool
        Fold each BatchNorm that follows a convolution into it, in the classifier's own precision
        and before it is converted: fewer passes over memory, and other last bits.

    Raises
    ------
    ValueError
        An unknown `dtype`.
    """

    dtype: str | None = None
    channels_last: bool = False
    compile: bool = False
    tf32: bool | None = None
    fold: bool = False

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {self.dtype!r}.")

    def prepare(self, base_classifier: BaseClassifier) -> tuple[BaseClassifier, BaseClassifier]:
        """Return the classifier, converted as a copy where need be, and the callable to run."""
        prepared = base_classifier
        if self.fold:
            if not isinstance(prepared, torch.nn.Module):
                raise ValueError("`fold` needs a torch module, not a plain function.")
            prepared = folded(prepared)
        if isinstance(prepared, torch.nn.Module) and self._converts(prepared):
            prepared = copy.deepcopy(prepared)
            if self.dtype is not None:
                prepared = prepared.to(DTYPES[self.dtype])
            if self.channels_last:
                prepared = prepared.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.compile:
            compiled: BaseClassifier = torch.compile(prepared, dynamic=False)
            return prepared, compiled
        return prepared, prepared

    def _converts(self, module: torch.nn.Module) -> bool:
        other = self.dtype is not None and floating_dtypes(module) != [DTYPES[self.dtype]]
        return other or self.channels_last


def floating_dtypes(module: torch.nn.Module) -> list[torch.dtype]:
    """Return the floating dtypes of a module's parameters and buffers, each once, in order."""
    tensors = (*module.parameters(), *module.buffers())
    return [*dict.fromkeys(t.dtype for t in tensors if t.is_floating_point())]


class _Switch:
    """Something that several threads set while they run: by the first, restored by the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[Any, tuple[Any, Any, int]] = {}

    def set(self, key: Any, wanted: Any, change: Callable[[], Any]) -> None:
        """Hold `key` at `wanted`; the first holder calls ``change()``, which returns an undo."""
        with self._lock:
            held, undo, holders = self._held.get(key) or (wanted, change(), 0)
            if held != wanted:
                raise RuntimeError(
                    "Classifiers with different `tf32` cannot run in one process at the same time."
                )
            self._held[key] = held, undo, holders + 1

    def release(self, key: Any) -> None:
        """Give up `key`; the last holder undoes."""
        with self._lock:
            held, undo, holders = self._held.pop(key)
            if holders > 1:
                self._held[key] = held, undo, holders - 1
            else:
                undo()


_MODES, _PRECISION = _Switch(), _Switch()


@contextmanager
def evaluating(base_classifier: BaseClassifier) -> Iterator[None]:
    """Put every submodule into eval mode; restore each one's own mode, exceptions included.

    A module that several threads run stays in eval mode until the last of them leaves.
    """
    held: list[int] = []
    try:
        if isinstance(base_classifier, torch.nn.Module):
            for module in base_classifier.modules():
                _MODES.set(id(module), True, partial(_eval_mode, module))
                held.append(id(module))  # which the undo keeps alive, so that it stays its own
        yield
    finally:
        for key in held:
            _MODES.release(key)


def _eval_mode(module: torch.nn.Module) -> Callable[[], None]:
    mode, module.training = module.training, False

    def restore() -> None:
        module.training = mode

    return restore


@contextmanager
def float32_precision(tf32: bool | None) -> Iterator[None]:
    """Allow or forbid TF32, or leave it as torch is set; restored, exceptions included.

    Both of torch's interfaces are moved together: all of its getters, and
    ``torch.backends.cudnn.flags``, work within.
    """
    _PRECISION.set("tf32", tf32, lambda: _allow_tf32(tf32))
    try:
        yield
    finally:
        _PRECISION.release("tf32")


def _allow_tf32(tf32: bool | None) -> Callable[[], None]:
    if tf32 is None:
        return lambda: None
    backends: Any = torch.backends
    # The newer interface can be read in every state, and the older one only where both agree.
    newer: list[Any] = [
        backends.cuda.matmul,
        backends.mkldnn.matmul,
        backends.cudnn.conv,
        backends.cudnn.rnn,
    ]
    values = [backend.fp32_precision for backend in newer]
    before = _older()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    backends.cudnn.allow_tf32 = tf32

    def restore() -> None:
        if before is not None:
            torch.set_float32_matmul_precision(before[0])
            backends.cudnn.allow_tf32 = before[1]
        for backend, value in zip(newer, values, strict=True):
            backend.fp32_precision = value

    return restore


def _older() -> tuple[str, bool] | None:
    try:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:  # set through the newer interface, in a way that the older cannot say
        return None
