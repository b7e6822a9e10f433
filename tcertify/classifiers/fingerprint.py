"""What tells one base classifier from any other: its parameters, its parts and their constants.

The same classifier has the same fingerprint in every process that runs the same version of Python
(of a plain function, the bytecode is part of it). What cannot be seen from here, such as objects of
other libraries or the text of a module's ``forward``, is left to `Classifier.probe`.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tcertify._hashing import add_tensor

#: Deeper than this, and after this many values, nothing more is looked at.
_DEPTH, _MOST = 32, 100_000

#: What torch keeps in every module: the parts that matter are looked at by name.
_TORCH_KEEPS = frozenset(vars(torch.nn.Module()))


@dataclass(frozen=True)
class Fingerprint:
    """The fingerprint of a classifier, in two parts.

    ``state`` is the SHA-256 of all parameters and buffers; ``structure`` that of everything else:
    types, plain attributes, constants and bytecode.
    """

    state: str
    structure: str

    @property
    def all(self) -> str:
        """Return both parts as one."""
        return hashlib.sha256(f"{self.state} {self.structure}".encode()).hexdigest()


def fingerprint(classifier: Callable[[Any], Any]) -> Fingerprint:
    """Return the fingerprint of a classifier, from the bytes of all its tensors."""
    return _Walk(add_tensor).over(classifier)


def identity(classifier: Callable[[Any], Any]) -> Fingerprint:
    """Return the same from the addresses of the tensors, not their bytes: quick, and good as long
    as the process runs. What reads those addresses, such as a CUDA graph, stays valid with it.
    """
    return _Walk(_add_address).over(classifier)


def _add_address(digest: Any, name: str, tensor: torch.Tensor) -> None:
    strided = tensor.layout == torch.strided
    place = (tensor.data_ptr(), tensor.stride()) if strided else id(tensor)
    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {place} ".encode())


class _Walk:
    """One way through everything that a classifier is made of, each object once."""

    def __init__(self, add: Callable[[Any, str, torch.Tensor], None]) -> None:
        self._add = add
        self._state, self._structure = hashlib.sha256(), hashlib.sha256()
        self._seen: dict[int, tuple[int, Any]] = {}  # holds on to what it has seen: ids stay theirs
        self._count = 0

    def over(self, classifier: Any) -> Fingerprint:
        self._visit("", classifier, 0)
        return Fingerprint(self._state.hexdigest(), self._structure.hexdigest())

    def _note(self, *words: object) -> None:
        self._structure.update(" ".join(map(str, words)).encode() + b"\0")

    def _visit(self, name: str, value: Any, depth: int) -> None:
        self._count += 1
        if depth > _DEPTH or self._count > _MOST:
            self._note(name, "further values")
        elif value is None or isinstance(
            value, (bool, int, float, complex, str, bytes, np.generic, torch.dtype, torch.Size)
        ):
            self._note(name, type(value).__name__, repr(value))
        elif isinstance(value, enum.Enum):
            self._note(name, _kind(value), value.name)
        elif id(value) in self._seen:
            self._note(name, "again", self._seen[id(value)][0])
        else:
            self._seen[id(value)] = len(self._seen), value
            self._look_into(name, value, depth + 1)

    def _look_into(self, name: str, value: Any, depth: int) -> None:
        if isinstance(value, torch.Tensor):
            self._add(self._structure, name, value)
        elif isinstance(value, np.ndarray):
            self._array(name, value)
        elif isinstance(value, torch.nn.Module):
            self._module(name, value, depth)
        elif isinstance(value, (list, tuple, dict, set, frozenset)):
            self._container(name, value, depth)
        elif isinstance(value, functools.partial):
            self._items(name, "partial", (value.func, value.args, value.keywords), depth)
        elif isinstance(value, types.MethodType):
            self._items(name, "method", (value.__func__, value.__self__), depth)
        elif isinstance(value, types.FunctionType):
            self._function(name, value, depth)
        elif isinstance(value, types.CodeType):
            self._code(name, value, depth)
        elif callable(value) and hasattr(value, "__qualname__"):
            self._note(name, value.__qualname__)  # a class, a function in C
        else:
            self._note(name, _kind(value))
            self._fields(name, getattr(value, "__dict__", {}), depth)

    def _module(self, name: str, module: torch.nn.Module, depth: int) -> None:
        self._note(name, _kind(module))
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                self._add(self._state, f"{name}.{key}", tensor)
        if isinstance(module, torch.jit.ScriptModule):
            self._note(name, module.original_name, *_scripted(module))
        else:
            self._fields(name, vars(module), depth)
            hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
            self._items(name, "hooks", hooks, depth)
        for key, child in module.named_children():
            self._visit(f"{name}.{key}", child, depth)

    def _fields(self, name: str, fields: dict[str, Any], depth: int) -> None:
        for key in sorted(fields):
            if key not in _TORCH_KEEPS:
                self._visit(f"{name}.{key}", fields[key], depth)

    def _function(self, name: str, function: types.FunctionType, depth: int) -> None:
        self._note(name, function.__qualname__)
        self._code(name, function.__code__, depth)
        cells = [_content(cell) for cell in function.__closure__ or ()]
        self._items(name, "closure", cells, depth)
        self._items(name, "defaults", (function.__defaults__, function.__kwdefaults__), depth)
        for key in sorted({*_names(function.__code__)} & {*function.__globals__}):
            value = function.__globals__[key]
            if not isinstance(value, types.ModuleType):
                self._visit(f"{name}.{key}", value, depth)

    def _code(self, name: str, code: types.CodeType, depth: int) -> None:
        self._note(name, code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars)
        self._items(name, "constants", code.co_consts, depth)

    def _container(self, name: str, value: Any, depth: int) -> None:
        if isinstance(value, dict):
            self._items(name, "dict", [*value.keys(), *value.values()], depth)
        elif isinstance(value, (set, frozenset)):
            self._items(name, "set", sorted(value, key=repr), depth)
        else:
            self._items(name, type(value).__name__, value, depth)

    def _items(self, name: str, kind: str, items: Iterable[Any], depth: int) -> None:
        values = [*items]
        self._note(name, kind, len(values))
        for at, value in enumerate(values):
            self._visit(f"{name}.{at}", value, depth)

    def _array(self, name: str, array: np.ndarray[Any, Any]) -> None:
        self._note(name, array.dtype, array.shape)
        if not array.dtype.hasobject:
            self._structure.update(np.ascontiguousarray(array).data.cast("B"))


def _kind(value: object) -> str:
    # Without the module: a script calls itself __main__, and is imported by its name.
    return type(value).__qualname__


def _scripted(module: torch.jit.ScriptModule) -> list[str]:
    try:
        return [module.code]
    except RuntimeError:  # it has no forward of its own
        return []


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _names(code: types.CodeType) -> Iterable[str]:
    """Yield the names that a function reads, those of the functions within it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
