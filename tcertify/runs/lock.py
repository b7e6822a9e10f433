"""The lock of a run file: one writer at a time, and nothing but locks is ever written to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from pathlib import Path

from tcertify.errors import RunFileError

_OWNER = "pid "


def check_unlocked(run: Path) -> None:
    """Raise `RunFileError` while a run file is being written; what is no lock locks nothing."""
    path = Path(f"{run}.lock")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 4096, 0).decode("utf-8", "replace").strip()
        raise RunFileError(f"`{run}` is being written by {owner or 'another process'}.") from None
    finally:
        os.close(descriptor)


class Lock:
    """The lock file next to a run file. The system frees it with its process, however that ends.

    ``stale`` names the writer that ended without freeing it, or is empty.

    Raises
    ------
    RunFileError
        Another process holds it, or its name belongs to something that is no lock: a link, a
        device, or a file of other content, which stays as it is.
    OSError
        It cannot be created.
    """

    def __init__(self, run: Path) -> None:
        self.path = Path(f"{run}.lock")
        while not self._taken():
            os.close(self._descriptor)
        try:
            self.stale = self._owner()
            os.ftruncate(self._descriptor, 0)
            owner = f"{_OWNER}{os.getpid()} on {socket.gethostname()}\n"
            os.pwrite(self._descriptor, owner.encode(), 0)
        except BaseException:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Let the next writer in."""
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _taken(self) -> bool:
        """Return whether the lock was taken on the file that the path still names."""
        self._descriptor = self._opened()
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = self._owner() or "another process"
            os.close(self._descriptor)
            raise RunFileError(f"`{self.path}` is held by {owner}, which is writing.") from None
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._descriptor), os.lstat(self.path))
        return False

    def _opened(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        if self.path.is_symlink():
            raise self._foreign()
        descriptor = os.open(self.path, flags, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise self._foreign()
        return descriptor

    def _owner(self) -> str:
        content = os.pread(self._descriptor, 4096, 0).decode("utf-8", "replace")
        if content and not content.startswith(_OWNER):
            raise self._foreign()
        return content.strip()

    def _foreign(self) -> RunFileError:
        return RunFileError(f"`{self.path}` is no lock of a run: remove it first.")
