"""Argument checks: one sentence that names the argument and what it got."""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Above this, float64 no longer holds every whole number, and counts would be rounded.
MAX_SAMPLES = 2**53

#: Below this, parts of a failure probability would be no normal numbers.
LEAST_ALPHA = 1e-300


def check_whole(name: str, value: Any, *, minimum: int = 1, maximum: int = MAX_SAMPLES) -> int:
    """Return `value` as an int; bool, fractions and numbers out of range are errors."""
    if isinstance(value, (bool, np.bool_)):
        raise ValueError(f"`{name}` must be a whole number, got {value}.")
    try:
        whole = operator.index(value)
    except TypeError:
        raise ValueError(f"`{name}` must be a whole number, got {value!r}.") from None
    if whole < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, got {whole}.")
    if whole > maximum:
        raise ValueError(f"`{name}` must be at most {maximum}, got {whole}.")
    return whole


def check_real(name: str, value: Any) -> float:
    """Return `value` as a float; text, bool and arrays are errors."""
    # nothing here that torch.compile cannot follow
    if type(value) is float or (type(value) is int and abs(value) <= MAX_SAMPLES):
        return float(value)
    if isinstance(value, (bool, np.bool_, str, bytes)) or np.ndim(value) != 0:
        raise ValueError(f"`{name}` must be a number, got {value!r}.")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"`{name}` must be a number, got {value!r}.") from None


def check_positive(name: str, value: Any) -> float:
    """Return `value` as a finite float above 0."""
    real = check_real(name, value)
    if not 0 < real < float("inf"):
        raise ValueError(f"`{name}` must be positive and finite, got {real}.")
    return real


def check_non_negative(name: str, value: Any) -> float:
    """Return `value` as a finite float, at least 0."""
    real = check_real(name, value)
    if not 0 <= real < float("inf"):
        raise ValueError(f"`{name}` must be at least 0 and finite, got {real}.")
    return real


def check_alpha(name: str, value: Any) -> float:
    """Return a failure probability as a float in (0, 1)."""
    return float(check_alphas(name, check_real(name, value)))


def check_alphas(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """Return failure probabilities as a float64 array, each in (0, 1)."""
    array = _real_array(name, value)
    bad = ~((array > 0) & (array < 1))
    if bad.any():
        raise ValueError(f"`{name}` must be in (0, 1), got {array[bad].flat[0]}.")
    if (array < LEAST_ALPHA).any():
        raise ValueError(f"`{name}` must be at least {LEAST_ALPHA}, got {array.min()}.")
    return array


def check_probabilities(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """Return probabilities as a float64 array, each in [0, 1]."""
    array = _real_array(name, value)
    bad = ~((array >= 0) & (array <= 1))
    if bad.any():
        raise ValueError(f"`{name}` must be in [0, 1], got {array[bad].flat[0]}.")
    return array


def check_positives(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """Return a float64 array of positive, finite numbers."""
    array = _real_array(name, value)
    bad = ~((array > 0) & np.isfinite(array))
    if bad.any():
        raise ValueError(f"`{name}` must be positive and finite, got {array[bad].flat[0]}.")
    return array


def check_non_negatives(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """Return a float64 array of finite numbers, each at least 0."""
    array = _real_array(name, value)
    bad = ~((array >= 0) & np.isfinite(array))
    if bad.any():
        raise ValueError(f"`{name}` must be at least 0 and finite, got {array[bad].flat[0]}.")
    return array


def check_choice(name: str, value: Any, choices: Collection[str]) -> str:
    """Return `value`, which must be one of `choices`."""
    for choice in choices:
        if isinstance(value, str) and value == choice:
            return choice
    raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}.")


def check_whole_array(
    name: str, value: ArrayLike, *, minimum: int = 0, maximum: int = MAX_SAMPLES
) -> NDArray[np.int64]:
    """Return whole numbers (integers, or floats without a fraction) as an int64 array."""
    array = _real_array(name, value, keep_integers=True)
    if array.dtype.kind == "f":
        bad = ~((array == np.floor(array)) & np.isfinite(array))
        if bad.any():
            raise ValueError(f"`{name}` must be whole numbers, got {array[bad].flat[0]}.")
    bad = array < minimum
    if bad.any():
        raise ValueError(f"`{name}` must be at least {minimum}, got {array[bad].flat[0]}.")
    bad = array > maximum
    if bad.any():
        raise ValueError(f"`{name}` must be at most {maximum}, got {array[bad].flat[0]}.")
    return array.astype(np.int64)


def check_broadcast(**arrays: NDArray[Any]) -> list[NDArray[Any]]:
    """Return the arrays broadcast against each other; name their shapes when they do not fit."""
    try:
        return list(np.broadcast_arrays(*arrays.values()))
    except ValueError:
        shapes = ", ".join(f"`{name}` {array.shape}" for name, array in arrays.items())
        raise ValueError(f"Shapes do not broadcast: {shapes}.") from None


def _real_array(name: str, value: ArrayLike, *, keep_integers: bool = False) -> NDArray[Any]:
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"`{name}` must be numbers, got {value!r}.")
    return array if keep_integers else array.astype(np.float64)
