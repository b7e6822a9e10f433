"""From an exception to the sentence that the user reads."""

from __future__ import annotations

import errno
import re
import sysconfig
import traceback
from collections.abc import Mapping
from pathlib import Path

from tcertify.errors import RunError

#: Where libraries live; what lies neither there nor in our packages is the user's.
_LIBRARIES = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_OURS = tuple(
    f"{Path(__file__).resolve().parents[2] / name}/"
    for name in ("tcertify", "adre_train", "kernels")
)

#: What to install for a module of another name.
_PACKAGES = {"flint": "python-flint", "PIL": "pillow", "sklearn": "scikit-learn"}

#: Errors whose message is a sentence of ours, unless the user's code raised them.
_SAID = (ValueError, TypeError, RunError, ModuleNotFoundError, OSError, FloatingPointError)

_LONGEST = 400
_SEE_ALL = "tcertify --traceback COMMAND ..."

#: What torch makes of an error in a process that reads images: its message holds the traceback.
_IN_READER = re.compile(
    r"Caught (\w+) in DataLoader worker .*Original Traceback.*^(?:[\w.]*\.)?\1(?:: (.*))?\Z",
    re.DOTALL | re.MULTILINE,
)
_FRAME = re.compile(r'^ *File "(.+)", line (\d+), in (.+)$', re.MULTILINE)


def explain(error: BaseException, spelled: Mapping[str, str], see_all: str = _SEE_ALL) -> str:
    """Return what went wrong, for the terminal.

    `spelled` says how the command line spells an argument that a message puts in backticks, and
    `see_all` is the command that shows the whole traceback.
    """
    more = f"`{see_all}` shows all of it."
    if isinstance(error, SyntaxError) and error.filename:
        return (
            f"{_shown(error.filename)}, line {error.lineno}, is not Python: {error.msg}:"
            f"\n    {(error.text or '').strip()}"
        )
    frame, in_network = _origin(error)
    if frame is not None:
        return (
            f"Your code failed in {_shown(frame.filename)}, line {frame.lineno}, in {frame.name}:"
            f"\n    {frame.line}\n{_described(error)} {more}"
        )
    if in_network:
        return f"The network failed on a batch of images: {_described(error)} {more}"
    if isinstance(error, ModuleNotFoundError) and error.name and "pip install" not in str(error):
        module = error.name.partition(".")[0]
        return f"{module} is not installed: pip install {_PACKAGES.get(module, module)}."
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{_shown(error.filename)}: " if error.filename is not None else ""
        return f"{where}{error.strerror}."
    if isinstance(error, _SAID):
        return _respelled(_message(error), spelled)
    if isinstance(error, MemoryError):
        return f"Memory ran out. {more}"
    return f"{_described(error)} {more}"


def is_broken_pipe(error: BaseException) -> bool:
    """Whether whoever read the output has left, as `head` does."""
    return isinstance(error, OSError) and error.errno == errno.EPIPE


def _origin(error: BaseException) -> tuple[traceback.FrameSummary | None, bool]:
    """Return the user's last frame, if his code raised or called what did, and whether a network
    was at work that is made of a library's parts alone.
    """
    frames = [*traceback.extract_tb(error.__traceback__), *_frames_in_reader(error)]
    in_network = False
    for frame in reversed(frames):
        if frame.filename.startswith(_OURS):
            return None, in_network
        if not frame.filename.startswith(("<", *_LIBRARIES)):
            return frame, False
        in_network |= frame.filename.endswith("torch/nn/modules/module.py")
    return None, in_network


def _frames_in_reader(error: BaseException) -> list[traceback.FrameSummary]:
    """Return where the error happened in a process that reads images, if it was there."""
    if not _IN_READER.match(str(error).rstrip()):
        return []
    return [
        traceback.FrameSummary(filename, int(line), name)
        for filename, line, name in _FRAME.findall(str(error))
    ]


def _message(error: BaseException) -> str:
    """Return what an error says, without the traceback of a process that reads images."""
    told = _IN_READER.match(str(error).rstrip())
    return (told[2] or "") if told else str(error)


def _described(error: BaseException) -> str:
    """Return the kind of error with its message, on one line."""
    message = " ".join(_message(error).split())
    if len(message) > _LONGEST:
        message = f"{message[:_LONGEST]} ..."
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _respelled(message: str, spelled: Mapping[str, str]) -> str:
    """Return a message of the library in the words of the command line."""
    message = re.sub(r'allow=\["(\w+)"\]', r"--allow \1", message)
    return re.sub(r"`(\w+)`", lambda found: spelled.get(found[1], found[0]), message)


def _shown(path: str | bytes | int) -> str:
    """Return a path as seen from the working directory, where it lies below."""
    text = path.decode(errors="backslashreplace") if isinstance(path, bytes) else str(path)
    try:
        return str(Path(text).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return text
