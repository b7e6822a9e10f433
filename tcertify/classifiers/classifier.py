"""The base classifier, prepared once at the door: what everything below is given as f."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from tcertify._checks import check_whole
from tcertify.classifiers.execution import (
    DTYPES,
    BaseClassifier,
    Execution,
    evaluating,
    float32_precision,
    floating_dtypes,
)
from tcertify.classifiers.fingerprint import Fingerprint, fingerprint, identity

#: Standard deviations of the noise of `Classifier.probe`.
_PROBED = (0.0, 0.25, 0.5, 1.0)


class Classifier:
    """A base classifier as it is executed: from noisy images (B, ...) to logits (B, C).

    Parameters
    ----------
    base_classifier : torch module or callable
        From a batch (B, ...) to logits (B, C). A module runs in eval mode, where it is; its modes
        are restored after each use. Where `execution` asks for another dtype or layout, or folds,
        a copy that is made now runs in its place, and later changes of the module do not reach it.
    num_classes : int
        C, the width of the logits; at least 2.
    device : torch device or str, optional
        Where a plain function wants its images and returns its logits; the CPU without it. The
        device of a module is that of its parameters.
    execution : Execution, optional
        Precision, layout, folding and compilation.

    Attributes
    ----------
    base_classifier, num_classes, device
        As given, the device found.
    execution : Execution
        As given, the dtype found.
    module
        The base classifier as executed, before compilation: itself or the converted copy.
    graphable : bool
        Whether it can be replayed as a CUDA graph, as far as is known.

    Raises
    ------
    TypeError, ValueError
        Not callable; parameters that are not there yet, on another device than `device`, or in
        float64 without a dtype; nothing that can be folded.
    """

    def __init__(
        self,
        base_classifier: BaseClassifier,
        num_classes: int,
        *,
        device: torch.device | str | None = None,
        execution: Execution | None = None,
    ) -> None:
        if not callable(base_classifier):
            raise TypeError(
                f"`base_classifier` must be a torch module or callable, got {base_classifier!r}."
            )
        self.base_classifier = base_classifier
        self.num_classes = check_whole("num_classes", num_classes, minimum=2)
        self.device = _device(base_classifier, device)
        execution = _stated(execution)
        own = None if execution.dtype else _own_dtype(base_classifier)
        self.module, self._call = execution.prepare(base_classifier)
        self.execution = replace(execution, dtype=execution.dtype or own)
        self.graphable = self.device.type == "cuda"

    @classmethod
    def of(
        cls,
        base_classifier: BaseClassifier | Classifier,
        num_classes: int,
        *,
        device: torch.device | str | None = None,
        execution: Execution | None = None,
    ) -> Classifier:
        """Return a `Classifier` as it is, if it is what the other arguments say, or make one."""
        if not isinstance(base_classifier, Classifier):
            return cls(base_classifier, num_classes, device=device, execution=execution)
        has, wants = base_classifier, check_whole("num_classes", num_classes, minimum=2)
        if has.num_classes != wants:
            raise ValueError(f"`num_classes` is {wants}, but the classifier has {has.num_classes}.")
        if device is not None and (there := _found(device)) != has.device:
            raise ValueError(f"`device` is {there}, but the classifier is on {has.device}.")
        if (
            execution is not None
            and replace(_stated(execution), dtype=execution.dtype or has.execution.dtype)
            != has.execution
        ):
            raise ValueError("`execution` is not that of the classifier.")
        return has

    @property
    def fixed_shape(self) -> bool:
        """Whether all batches should have one shape, as CUDA graphs and compiled code need."""
        return self.device.type == "cuda" or self.execution.compile

    @contextmanager
    def running(self) -> Iterator[None]:
        """Eval mode, no autograd, no autocast of the surroundings, TF32 as stated; all restored."""
        cuda = self.device.type == "cuda"
        with (
            torch.cuda.device(self.device) if cuda else nullcontext(),
            evaluating(self.module),
            torch.inference_mode(),
            torch.autocast(self.device.type, enabled=False),
            float32_precision(self.execution.tf32),
        ):
            yield

    def logits(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, C) of noisy images (B, ...), contiguous; call it while `running`.

        Raises
        ------
        ValueError
            They are not a dense float tensor of that shape on the classifier's device.
        """
        return self._checked(self._call(batch), len(batch))

    def empty(self, rows: int, images: torch.Tensor) -> torch.Tensor:
        """Return an empty batch of noisy images for `images` (S, ...)."""
        if self.execution.channels_last and images.dim() != 4:
            raise ValueError(
                f"`channels_last` needs images of shape (C, H, W), got {tuple(images.shape[1:])}."
            )
        last = self.execution.channels_last
        return torch.empty(
            (rows, *images.shape[1:]),
            dtype=DTYPES[self.execution.dtype or "float32"],
            device=self.device,
            memory_format=torch.channels_last if last else torch.contiguous_format,
        )

    def check_images(self, images: Any) -> None:
        """Refuse what no noise can be added to: other types, integers, NaN, another device."""
        self.check_type(images)
        self.check_finite(images)

    def check_type(self, images: Any) -> None:
        """Refuse other types and dtypes, and another device, without a look at the contents."""
        if not isinstance(images, torch.Tensor):
            raise TypeError(f"`x` must be a torch tensor, got {type(images).__name__}.")
        if images.dtype not in DTYPES.values():
            raise ValueError(
                "`x` must be float32, float16 or bfloat16, in the range that the classifier was"
                f" trained on, got {images.dtype}."
            )
        if images.device != self.device:
            raise ValueError(
                f"`x` is on {images.device}, but the classifier on {self.device}: move one of them,"
                " or give `device` for a plain function."
            )

    def check_finite(self, images: torch.Tensor) -> None:
        """Refuse NaN and Inf; the host waits for the device."""
        if not bool(torch.isfinite(images).all()):
            raise ValueError("`x` must be finite, got NaN or Inf.")

    def fingerprint(self) -> str:
        """Return what tells the base classifier, as it was given, from any other."""
        return fingerprint(self.base_classifier).all

    def parts(self) -> Fingerprint:
        """Return the fingerprint of the classifier as executed: its state and its structure."""
        return fingerprint(self.module)

    def identity(self) -> Fingerprint:
        """Return the same by the addresses of the tensors: while it stays, a CUDA graph is good."""
        return identity(self.module)

    def probe(self, image: torch.Tensor) -> bytes:
        """Return the logits of a few fixed noisy copies of an image, as bytes.

        On the same device, by the same versions and on as many threads, another classifier is told
        by them even where its fingerprint is the same. The noise belongs to no sample.

        Parameters
        ----------
        image : float tensor (...), one image
            On the classifier's device.
        """
        noise = torch.randn(len(_PROBED), *image.shape, generator=torch.Generator().manual_seed(0))
        sizes = torch.tensor(_PROBED).view(-1, *[1] * image.dim())
        copies = image.float() + (sizes * noise).to(self.device)
        with self.running():
            logits = self.logits(self.empty(len(copies), copies).copy_(copies))
        return logits.float().cpu().numpy().tobytes()

    def _checked(self, logits: Any, rows: int) -> torch.Tensor:
        expected = (
            f"The base classifier must return float logits of shape ({rows}, {self.num_classes})"
        )
        if not isinstance(logits, torch.Tensor):
            raise ValueError(f"{expected}, got {type(logits).__name__}.")
        if tuple(logits.shape) != (rows, self.num_classes) or not logits.is_floating_point():
            raise ValueError(f"{expected}, got {tuple(logits.shape)} of {logits.dtype}.")
        if logits.dtype not in DTYPES.values():
            kind = str(logits.dtype).removeprefix("torch.")
            raise ValueError(f"{expected} in float32, bfloat16 or float16, got {kind}.")
        if logits.layout != torch.strided:
            raise ValueError(f"{expected} as a dense tensor, got {logits.layout}.")
        if logits.device != self.device:
            raise ValueError(
                f"{expected} on {self.device}, got them on {logits.device}: `device` says where a"
                " plain function runs."
            )
        return logits.contiguous()


def _device(base_classifier: BaseClassifier, given: torch.device | str | None) -> torch.device:
    """Return where the classifier runs: where its parameters are, or where the caller says."""
    wanted = None if given is None else _found(given)
    if not isinstance(base_classifier, torch.nn.Module):
        return wanted or torch.device("cpu")
    tensors = [*base_classifier.parameters(), *base_classifier.buffers()]
    if any(torch.nn.parameter.is_lazy(tensor) for tensor in tensors):
        raise ValueError(
            "The classifier has lazy modules without parameters yet: run it on one batch first."
        )
    found = next((tensor.device for tensor in tensors), wanted or torch.device("cpu"))
    if any(tensor.is_meta for tensor in tensors):
        raise ValueError("The classifier is on the meta device: load its parameters first.")
    if wanted is not None and wanted != found:
        raise ValueError(
            f"`device` is {wanted}, but the classifier's parameters are on {found}: move it first."
        )
    return found


def _found(device: torch.device | str) -> torch.device:
    """Return a device that is there, with its index."""
    try:
        wanted = torch.device(device)
        # An empty tensor knows whether the device is there, and its index.
        return torch.empty(0, device=wanted).device if wanted.type != "meta" else wanted
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"`device` {str(device)!r} cannot be used: {reason}") from None


def _stated(execution: Any) -> Execution:
    if execution is not None and not isinstance(execution, Execution):
        raise TypeError(f"`execution` must be an Execution, got {execution!r}.")
    return execution or Execution()


def _own_dtype(base_classifier: BaseClassifier) -> str:
    """Return the name of the dtype that a classifier was made in: that of its first parameter."""
    found = torch.float32
    if isinstance(base_classifier, torch.nn.Module):
        found = next(iter(floating_dtypes(base_classifier)), found)
    names = [name for name, dtype in DTYPES.items() if dtype == found]
    if not names:
        kind = str(found).removeprefix("torch.")
        raise ValueError(
            f"The classifier is made of {kind}, in which it cannot run: give `dtype`, such as"
            ' "float32".'
        )
    return names[0]
