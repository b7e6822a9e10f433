"""Files that appear under their name only when they are whole."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

#: A file that is not whole yet is called by its name and this.
PARTIAL = ".part"


@contextlib.contextmanager
def complete(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a file to write; it gets its name at the end, whole and durable, or not at all.

    It is written aside, next to its target, and renamed over it: after an error or an
    interruption, what stood there before is as it was. If `path` is a link, the file that it
    names is replaced. A pipe, and whatever the standard output or error of this process already
    is, is written in place, since no file must take its name.

    Raises
    ------
    OSError
        The file cannot be written, another process writes it as well, or its name belongs to a
        folder, a device or a socket. The error's ``filename`` is `path`.
    """
    try:
        if _is_stream(path):
            with open(path, "wb") as stream:
                yield stream
            return
        target = Path(os.path.realpath(path))
        partial = target.with_name(target.name + PARTIAL)
        with _fresh(partial) as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                _check_same(file, partial)
                os.replace(partial, target)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
        _sync_folder(target.parent)
    except OSError as error:
        if error.errno is None or not (
            error.filename is None or os.fspath(error.filename).endswith(PARTIAL)
        ):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


@contextlib.contextmanager
def complete_text(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """Yield `complete`'s file for ASCII text, whose line ends stay as they are written."""
    with complete(path) as file:
        text = io.TextIOWrapper(file, encoding="ascii", newline="\n", write_through=True)
        yield text
        text.detach()


def _is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is written in place; an OSError if it must not be written at all."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    if stat.S_ISREG(there.st_mode):
        return False
    if stat.S_ISDIR(there.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if stat.S_ISFIFO(there.st_mode) or any(_names(fd, there) for fd in (1, 2)):
        return True
    raise OSError(errno.EINVAL, "it is neither a regular file nor a pipe")


def _names(descriptor: int, there: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), there)
    except OSError:  # it is closed
        return False


def _fresh(partial: Path) -> BinaryIO:
    """Return a new file at `partial`, whatever a process that died, or a link, left there."""
    partial.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(partial, flags, 0o666), "wb")


def _check_same(file: BinaryIO, partial: Path) -> None:
    """Raise where another process has taken the place of the file that was written here."""
    try:
        there = os.path.samestat(os.fstat(file.fileno()), os.lstat(partial))
    except FileNotFoundError:
        there = False
    if not there:
        raise OSError(errno.EBUSY, "another process writes it as well")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
