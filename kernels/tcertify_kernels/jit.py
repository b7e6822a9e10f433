"""numba's njit, which keeps what it compiled wherever there is a place to keep it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache as once
from typing import Any, TypeVar

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def njit(*, cache: bool = False, **options: Any) -> Callable[[_Function], _Function]:
    """Decorate as ``numba.njit`` does; where no cache can be written, do without one.

    numba refuses ``cache=True`` when neither the folder of the source nor the user's cache folder
    is writable, as in many containers. The function is then compiled at each start, and one
    warning says so.
    """

    def compiled(function: _Function, **kept: Any) -> _Function:
        dispatcher: _Function = numba.njit(**kept, **options)(function)
        return dispatcher

    def decorate(function: _Function) -> _Function:
        if not cache:
            return compiled(function)
        try:
            return compiled(function, cache=True)
        except RuntimeError as error:
            if "cannot cache function" not in str(error):
                raise
            _say_once()
            return compiled(function)

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
