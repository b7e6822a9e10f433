"""numba's njit, which keeps what it compiled wherever there is a place to keep it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache as once
from typing import Any

import numba


def njit(*, cache: bool = False, **options: Any) -> Callable[[Any], Any]:
    """Decorate as ``numba.njit`` does; where no cache can be written, do without one.

    numba refuses ``cache=True`` when neither the folder of the source nor the user's cache folder
    is writable, as in many containers. The function is then compiled at each start, and one
    warning says so.
    """

    def decorate(function: Any) -> Any:
        if not cache:
            return numba.njit(**options)(function)
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache function" not in str(error):
                raise
            _say_once()
            return numba.njit(**options)(function)

    return decorate


@once
def _say_once() -> None:
    warnings.warn(
        "Compiled code cannot be kept, because neither the folder of the package nor that of the"
        " user's cache is writable; each start compiles it again. Set NUMBA_CACHE_DIR to a folder"
        " that is writable.",
        RuntimeWarning,
        stacklevel=4,
    )
