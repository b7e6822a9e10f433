"""Handwritten digits: 1,797 real images of 8x8 pixels that come with scikit-learn."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from tcertify.data.dataset import TensorDataset, check_split


def load(split: str) -> TensorDataset:
    """Load the digits: 1,433 training images or 364 test images, (N, 1, 8, 8) float32 in [0, 1].

    The split is fixed and stratified: of every class, the first of each five images in file order
    is a test image. Nothing is downloaded.

    Raises
    ------
    ValueError
        If `split` is neither "train" nor "test".
    ModuleNotFoundError
        If scikit-learn is not installed, with the line that installs it.

    Examples
    --------
    >>> len(load("test"))
    364
    >>> image, label = load("test")[0]
    >>> image.shape, label
    (torch.Size([1, 8, 8]), 0)
    """
    check_split(split)
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "The digits come with scikit-learn: pip install scikit-learn."
        ) from None
    pixels, labels = load_digits(return_X_y=True)
    chosen = _is_test(labels) == (split == "test")
    images = (pixels[chosen] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return TensorDataset(
        name=f"digits/{split}",
        num_classes=10,
        images=torch.from_numpy(images),
        labels=torch.from_numpy(labels[chosen].astype(np.int64)),
        grey_levels=16,
    )


def _is_test(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the first of each five images of a class."""
    is_test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        is_test[np.flatnonzero(labels == label)[::5]] = True
    return is_test
