"""Base classifiers that are no torch modules, and modules that return more than logits.

Each adapter is a torch module from a batch (B, ...) to scores (B, C), so that the same noise
reaches every kind of classifier. All but `from_huggingface` compute on the CPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

#: From a float32 array (B, ...) to scores (B, C) or to class numbers (B,).
ArrayFunction = Callable[[NDArray[np.float32]], Any]


def from_numpy(function: ArrayFunction, num_classes: int) -> nn.Module:
    """Return a base classifier that calls a function of NumPy arrays.

    Parameters
    ----------
    function : callable
        From a float32 array (B, ...) to scores (B, C), or to class numbers (B,): hard labels.
    num_classes : int
        C; hard labels become scores of 1 for the label and 0 elsewhere.
    """
    return _ArrayClassifier(function, num_classes)


def from_sklearn(estimator: Any) -> nn.Module:
    """Return a base classifier that asks a fitted scikit-learn estimator.

    Images are flattened to rows (B, features). Scores are its ``decision_function``, else its
    ``predict_proba``, else its predictions as hard labels. Class c of the certificate is
    ``estimator.classes_[c]``.

    Raises
    ------
    ValueError
        The estimator is not fitted, or is no classifier.
    """
    if not hasattr(estimator, "classes_"):
        raise ValueError(f"{type(estimator).__name__} is not fitted, or is no classifier.")
    return _SklearnClassifier(estimator)


def from_huggingface(model: nn.Module) -> nn.Module:
    """Return a base classifier that takes ``.logits`` of what a Hugging Face model returns."""
    return _Logits(model)


def from_jax(function: Callable[[Any], Any], num_classes: int) -> nn.Module:
    """Return a base classifier that calls a function of JAX arrays, as `from_numpy` does.

    Raises
    ------
    ModuleNotFoundError
        JAX is not installed.
    """
    try:
        import jax.numpy as jnp
    except ModuleNotFoundError:
        raise ModuleNotFoundError("This classifier needs JAX: pip install jax.") from None
    return _ArrayClassifier(lambda batch: np.asarray(function(jnp.asarray(batch))), num_classes)


def from_onnx(path: str | Path) -> nn.Module:
    """Return a base classifier that runs an ONNX file: its first output on its only input.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is no ONNX model that can be run, or takes more than one input; the message says why.
    ModuleNotFoundError
        onnxruntime is not installed, with the line that installs it.
    """
    return _OnnxClassifier(Path(path))


class _ArrayClassifier(nn.Module):
    """A function of NumPy arrays."""

    def __init__(self, function: ArrayFunction, num_classes: int) -> None:
        super().__init__()
        self.function, self.num_classes = function, num_classes

    def forward(self, batch: Tensor) -> Tensor:
        """Return the scores (B, C) of a batch, as float32."""
        scores = np.asarray(self.function(batch.detach().cpu().float().numpy()))
        if scores.ndim == 1 and scores.dtype.kind in "iu":
            if scores.size and not 0 <= scores.min() <= scores.max() < self.num_classes:
                raise ValueError(
                    f"The base classifier answers class {scores.max()}, outside [0,"
                    f" {self.num_classes})."
                )
            scores = np.arange(self.num_classes) == scores[:, None]
        return torch.from_numpy(np.array(scores, np.float32)).to(batch.device)


class _SklearnClassifier(_ArrayClassifier):
    """A fitted estimator; its fingerprint is that of what it has learned."""

    def __init__(self, estimator: Any) -> None:
        super().__init__(self._scores, len(estimator.classes_))
        self.estimator = estimator

    def fingerprint(self) -> str:
        """Return the hash of the estimator's parameters and learned arrays."""
        import joblib

        return hashlib.sha256(str(joblib.hash(self.estimator)).encode()).hexdigest()

    def _scores(self, batch: NDArray[np.float32]) -> NDArray[Any]:
        rows = batch.reshape(len(batch), -1)
        if hasattr(self.estimator, "decision_function"):
            scores = np.asarray(self.estimator.decision_function(rows))
            # two classes have one column, which is positive for the second
            return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores
        if hasattr(self.estimator, "predict_proba"):
            return np.asarray(self.estimator.predict_proba(rows))
        return np.asarray(np.searchsorted(self.estimator.classes_, self.estimator.predict(rows)))


class _OnnxClassifier(nn.Module):
    """An ONNX graph run by onnxruntime; its fingerprint is that of the file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "ONNX files need onnxruntime: pip install onnxruntime."
            ) from None
        if not path.is_file():
            raise FileNotFoundError(f"MODEL {path} does not exist.")
        content = path.read_bytes()
        try:
            self._session = onnxruntime.InferenceSession(
                content, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises classes of its own extension module
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"MODEL {path} ({len(content):,} bytes) cannot be run: {reason}"
            ) from None
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise ValueError(f"MODEL {path} takes {len(inputs)} inputs, a classifier takes one.")
        self._input = inputs[0].name
        self._digest = hashlib.sha256(content).hexdigest()

    def forward(self, batch: Tensor) -> Tensor:
        """Return the first output for a batch."""
        given = np.ascontiguousarray(batch.detach().cpu().float().numpy())
        return torch.from_numpy(np.array(self._session.run(None, {self._input: given})[0])).to(
            batch.device
        )

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file."""
        return self._digest


class _Logits(nn.Module):
    """A module that returns an object with ``logits``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Tensor) -> Tensor:
        """Return the logits of a batch."""
        logits: Tensor = self.model(batch).logits
        return logits
