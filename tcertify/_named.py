"""Python objects that a user names on the command line: ``package.module:function(a=1)``."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any


def is_named(name: str) -> bool:
    """Whether `name` is ``module:function``, with or without arguments."""
    module, colon, function = name.partition("(")[0].partition(":")
    parts = [*module.split("."), *function.split(".")]
    return bool(colon) and all(part.isidentifier() for part in parts)


def split_call(name: str, what: str) -> tuple[str, dict[str, Any]]:
    """Return ``module:function`` and the keyword arguments of ``module:function(a=1, b='x')``.

    Arguments are Python literals; nothing of the text is executed.
    """
    path, parenthesis, _ = name.partition("(")
    if not parenthesis:
        return name, {}
    try:
        call = ast.parse(name[name.index(":") + 1 :], mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("arguments must be keyword=value")
        keywords = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{what} {name}: its arguments cannot be read: {error}.") from None
    return path, keywords


def find_named(name: str, what: str) -> Any:
    """Import ``module:attribute``; the working directory is searched first.

    Parameters
    ----------
    name : str
        Without arguments; see `split_call`.
    what : str
        How messages call it, such as MODEL or DATASET.

    Raises
    ------
    ValueError
        There is no such module, or it has no such attribute; the message names those it has.
        Whatever else the module raises while it is imported is the user's error, and passes.
    """
    module_name, _, path = name.partition(":")
    sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"{what} {name}: {error}.") from None
    finally:
        sys.path.remove("")
    found: Any = module
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            public = [n for n, value in vars(module).items() if callable(value) and n[0] != "_"]
            has = ", ".join(public) or "nothing that can be called"
            raise ValueError(f"{what} {name}: {module_name} has no {path}; it has {has}.")
        found = getattr(found, attribute)
    return found


def call_named(
    function: Callable[..., Any], name: str, what: str, *args: Any, **keywords: Any
) -> Any:
    """Return ``function(*args, **keywords)``.

    Raises
    ------
    ValueError
        The function wants other arguments. What it raises itself passes.
    """
    try:
        inspect.signature(function).bind(*args, **keywords)
    except TypeError as error:
        raise ValueError(f"{what} {name} cannot be called as it is: {error}.") from None
    return function(*args, **keywords)
