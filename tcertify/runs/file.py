"""The run file: every certificate with the counts that prove it, in one SQLite file.

The file is whole at any moment: it is written in WAL mode, with ``synchronous=FULL``, so that a
committed image survives the end of the process and of the power. One fsync per commit is the
price; images are committed together, four times a second at most, so it is hardly felt.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import operator
import os
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tcertify._checks import MAX_SAMPLES
from tcertify.errors import RunFileError

FORMAT = 1
_APPLICATION_ID = int.from_bytes(b"tcrt")
_COMMIT_SECONDS = 0.25

_RUN_TABLE = """CREATE TABLE run (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  parameters TEXT NOT NULL,
  environment TEXT NOT NULL,
  plan TEXT NOT NULL,
  checksum TEXT NOT NULL
)"""

_CERTIFICATE_TABLE = """CREATE TABLE certificate (
  idx INTEGER PRIMARY KEY CHECK (idx >= 0),
  label INTEGER NOT NULL,
  predicted INTEGER NOT NULL CHECK (predicted >= -1),
  radius REAL NOT NULL CHECK (radius >= 0),
  p_a_lower REAL NOT NULL CHECK (p_a_lower BETWEEN 0 AND 1),
  p_b_upper REAL NOT NULL CHECK (p_b_upper BETWEEN 0 AND 1),
  method TEXT NOT NULL,
  alpha REAL NOT NULL CHECK (alpha > 0 AND alpha < 1),
  sigma REAL NOT NULL CHECK (sigma > 0),
  seed INTEGER NOT NULL,
  n0 INTEGER NOT NULL CHECK (n0 >= 0),
  n INTEGER NOT NULL CHECK (n >= 0),
  look INTEGER NOT NULL CHECK (look >= 0),
  invalid INTEGER NOT NULL CHECK (invalid >= 0),
  selection TEXT NOT NULL,
  estimation TEXT NOT NULL,
  seconds REAL NOT NULL,
  error TEXT,
  checksum TEXT NOT NULL
)"""

_WARNING_TABLE = "CREATE TABLE warning (text TEXT PRIMARY KEY)"
_TABLES = {"run": _RUN_TABLE, "certificate": _CERTIFICATE_TABLE, "warning": _WARNING_TABLE}


@dataclass(frozen=True, slots=True)
class Row:
    """One image of a run: what was certified and the votes that prove it.

    ``selection`` and ``estimation`` are votes as `encode_votes` writes them: the selection sample,
    and the estimation sample at each look; ``n`` and ``invalid`` are those of the last look, and
    ``look`` is the one that gave the certificate. ``predicted`` is -1 for an abstention; ``error``
    says why an image is invalid, and such an image is never certified.
    """

    idx: int
    label: int
    predicted: int
    radius: float
    p_a_lower: float
    p_b_upper: float
    method: str
    alpha: float
    sigma: float
    seed: int
    n0: int
    n: int
    look: int
    invalid: int
    selection: str
    estimation: str
    seconds: float
    error: str | None = None


_COLUMNS = ", ".join(field.name for field in fields(Row))
_TYPES = [
    {"int": int, "float": float, "str": str}.get(str(field.type), (str, type(None)))
    for field in fields(Row)
]


def encode_votes(looks: NDArray[np.int64]) -> str:
    """Return the votes of each look (K, C + 1) as JSON, one object of class: votes a look."""
    return json.dumps([{str(c): int(look[c]) for c in np.flatnonzero(look)} for look in looks])


def decode_votes(text: str, num_classes: int) -> NDArray[np.int64]:
    """Return the int64 votes (K, C + 1) that `encode_votes` wrote; a ValueError names a defect."""
    try:
        looks = json.loads(text, object_pairs_hook=_unique)
        votes = np.zeros((len(looks), num_classes + 1), np.int64)
        for vote, look in zip(votes, looks, strict=True):
            for key, count in look.items():
                if not (type(count) is int and 0 < count <= MAX_SAMPLES):
                    raise ValueError(f"{count!r} votes for class {key}")
                if not (key.isdecimal() and int(key) <= num_classes):
                    raise ValueError(f"votes for class {key!r} of {num_classes}")
                vote[int(key)] = count
    except (TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"These are not votes: {error}.") from None
    return votes


class RunWriter:
    """The one writer of a run file: adds rows, commits them, and lets nobody else write.

    Parameters
    ----------
    path : the run file.
    parameters : what the rows depend on; a resume with other parameters is refused.
    environment : what is worth knowing besides (versions, device, time).
    plan : the indices of the images that the run is to certify.
    resume, overwrite : continue, or replace, a run file that exists; else it is an error.

    Raises
    ------
    RunFileError
        When the path cannot be written, holds something else, belongs to a live writer, or was
        made with other parameters. An existing file is then left as it was.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        parameters: dict[str, Any],
        environment: dict[str, Any],
        plan: Sequence[int],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self.done: set[int] = set()
        self._lock = _Lock(self.path)
        try:
            if self.path.exists():
                self._check_existing(parameters, resume, overwrite)
            if overwrite or not self.path.exists():
                _create(self.path, parameters, environment, plan)
            with _named(self.path, "write"):
                self._db = sqlite3.connect(self.path, isolation_level=None)
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._begin(parameters, environment, plan)
        except BaseException:
            self._lock.release()
            raise
        if self._lock.stale:
            self.warn(f"The writer before, {self._lock.stale}, ended without closing the file.")

    def _check_existing(self, parameters: dict[str, Any], resume: bool, overwrite: bool) -> None:
        """Refuse a foreign file always, and a run file unless it may be continued or replaced."""
        with RunFile(self.path) as run:
            if overwrite:
                return
            if not resume:
                raise RunFileError(
                    f"`{self.path}` exists: resume the run that it holds, or overwrite it."
                )
            run.check_structure()
            differences = _differences(run.parameters, json.loads(_json(parameters)))
            if differences:
                raise RunFileError(
                    f"Cannot resume `{self.path}`, it was made otherwise: {'; '.join(differences)}."
                )
            self.done = {row.idx for row in run.rows()}

    def _begin(
        self, parameters: dict[str, Any], environment: dict[str, Any], plan: Sequence[int]
    ) -> None:
        """Note who writes now, and drop the rows that lost their checksums, to make them again."""
        self._db.execute("BEGIN IMMEDIATE")
        _write_head(self._db, parameters, environment, plan)
        stored = [idx for (idx,) in self._db.execute("SELECT idx FROM certificate")]
        for idx in stored:
            if idx not in self.done:
                self._db.execute("DELETE FROM certificate WHERE idx = ?", (idx,))
                self.warn(f"The row of image {idx} was damaged; the image is certified again.")
        self._db.execute("COMMIT")
        self._committed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows; an equal row that is there already is kept, a different one is an error."""
        with _named(self.path, "write"):
            if not self._db.in_transaction:
                self._db.execute("BEGIN IMMEDIATE")
            for row in rows:
                self._insert(row)
                self.done.add(row.idx)
        if time.monotonic() - self._committed > _COMMIT_SECONDS:
            self.commit()

    def _insert(self, row: Row) -> None:
        marks = ", ".join("?" * (len(fields(Row)) + 1))
        inserted = self._db.execute(
            f"INSERT INTO certificate VALUES ({marks}) ON CONFLICT (idx) DO NOTHING",
            _sealed(astuple(row)),
        ).rowcount
        if inserted:
            return
        query = f"SELECT {_COLUMNS} FROM certificate WHERE idx = ?"
        there = Row(*self._db.execute(query, (row.idx,)).fetchone())
        if replace(there, seconds=row.seconds) != row:
            raise RunFileError(f"`{self.path}` holds another row for image {row.idx}.")

    def warn(self, text: str) -> None:
        """Store a warning with the run, once."""
        with _named(self.path, "write"):
            self._db.execute("INSERT OR IGNORE INTO warning VALUES (?)", (text,))

    def commit(self) -> None:
        """Make what was added durable."""
        with _named(self.path, "write"):
            if self._db.in_transaction:
                self._db.execute("COMMIT")
        self._committed = time.monotonic()

    def close(self) -> None:
        """Commit, close and let the next writer in."""
        try:
            self.commit()
        finally:
            self._db.close()
            self._lock.release()


class RunFile:
    """A run file, read: its parameters, and its rows as long as they are whole.

    ``damage`` grows by one sentence for each damaged thing that is met; nothing damaged is ever
    returned. A file that is not a run file at all raises `RunFileError`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.damage: list[str] = []
        with _named(self.path, "read"):
            _check_magic(self.path)
            # Without a write-ahead log nothing is pending, and a read-only folder will do.
            pending = Path(f"{self.path}-wal").exists()
            uri = f"{self.path.absolute().as_uri()}?{'mode=ro' if pending else 'immutable=1'}"
            self._db = sqlite3.connect(uri, uri=True, isolation_level=None)
            self._db.text_factory = lambda raw: raw.decode("utf-8", "replace")
        try:
            self._read_run()
        except BaseException:
            self._db.close()
            raise

    def _read_run(self) -> None:
        with _named(self.path, "read"):
            # Lets SQLite read what is left of a truncated file.
            self._db.execute("PRAGMA writable_schema = ON")
            (application,) = self._db.execute("PRAGMA application_id").fetchone()
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            schema = dict(self._db.execute("SELECT name, sql FROM sqlite_schema WHERE sql <> ''"))
            if application != _APPLICATION_ID:
                raise RunFileError(f"`{self.path}` is an SQLite file of another program.")
            if version != FORMAT:
                raise RunFileError(
                    f"`{self.path}` has the format {version}; this version reads {FORMAT}."
                )
            if schema != _TABLES:
                raise RunFileError(f"`{self.path}` has other tables than a run file: damaged?")
            head = self._db.execute("SELECT * FROM run").fetchone()
            self.warnings = [text for (text,) in self._db.execute("SELECT text FROM warning")]
        if head is None or not _is_sealed(head):
            raise RunFileError(f"`{self.path}` is damaged: its parameters cannot be read.")
        try:
            self.parameters: dict[str, Any] = dict(json.loads(head[1]))
            self.environment: dict[str, Any] = dict(json.loads(head[2]))
            self.plan: list[int] = [operator.index(idx) for idx in json.loads(head[3])]
        except (TypeError, ValueError, RecursionError) as error:
            raise RunFileError(f"`{self.path}` has parameters of another kind: {error}.") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._db.close()

    def rows(self) -> Iterator[Row]:
        """Yield the whole rows in the order of their indices, one at a time."""
        last = -1
        try:
            for values in self._db.execute(f"SELECT {_COLUMNS}, checksum FROM certificate"):
                last = values[0]
                yield from self._whole(values)
        except sqlite3.Error as error:
            self.damage.append(f"The table of certificates is damaged: {error}.")
            yield from self._rows_one_by_one(last)

    def _rows_one_by_one(self, last: int) -> Iterator[Row]:
        query = f"SELECT {_COLUMNS}, checksum FROM certificate WHERE idx = ?"
        for idx in sorted(idx for idx in self.plan if idx > last):
            try:
                for values in self._db.execute(query, (idx,)):
                    yield from self._whole(values)
            except sqlite3.Error:
                self.damage.append(f"The row of image {idx} cannot be read.")

    def _whole(self, values: tuple[Any, ...]) -> Iterator[Row]:
        typed = all(isinstance(value, kind) for value, kind in zip(values, _TYPES, strict=False))
        if typed and _is_sealed(values):
            yield Row(*values[:-1])
        else:
            self.damage.append(f"The row of image {values[0]} does not match its checksum.")

    def structure(self) -> list[str]:
        """Return what is wrong with the file: its length, and ``PRAGMA integrity_check``."""
        try:
            found = [str(text) for (text,) in self._db.execute("PRAGMA integrity_check")]
        except sqlite3.Error as error:
            found = [str(error)]
        return self._truncation() + [text for text in found if text != "ok"]

    def _truncation(self) -> list[str]:
        # SQLite reads the end of a torn last page as zeros.
        with open(self.path, "rb") as file:
            head, size = file.read(100), os.fstat(file.fileno()).st_size
        pages, page = int.from_bytes(head[28:32]), int.from_bytes(head[16:18])
        whole = pages * (65536 if page == 1 else page)
        return [f"it ends after {size} of {whole} bytes"] if size < whole else []

    def check_structure(self) -> None:
        """Raise `RunFileError` when SQLite finds the file damaged."""
        found = self.structure()
        if found:
            raise RunFileError(f"`{self.path}` is damaged: {found[0]}.")


class _Lock:
    """The lock file beside a run file. The system frees it with its process, however that ends."""

    def __init__(self, run: Path) -> None:
        self._path = Path(f"{run}.lock")
        with _named(run, "create"):
            if run.is_dir():
                raise RunFileError(f"Cannot write `{run}`: it is a folder.")
            while not self._taken():
                self._file.close()
            self._file.seek(0)
            self.stale = self._file.read().strip()
            self._file.truncate(0)
            self._file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
            self._file.flush()

    def _taken(self) -> bool:
        """Return whether the lock was taken on the file that the path still names."""
        self._file = open(self._path, "a+")  # noqa: SIM115 - held for the life of the writer
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            owner = self._file.read().strip() or "another process"
            self._file.close()
            raise RunFileError(f"`{self._path}` is held by {owner}, which is writing.") from None
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._path))
        return False

    def release(self) -> None:
        self._path.unlink(missing_ok=True)
        self._file.close()


def _create(
    path: Path, parameters: dict[str, Any], environment: dict[str, Any], plan: Sequence[int]
) -> None:
    """Write an empty run file whole, then move it into place: no moment has half of one."""
    new = Path(f"{path}.new")
    with _named(path, "create"):
        new.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as db:
            db.execute("BEGIN")
            db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {FORMAT}")
            for statement in _TABLES.values():
                db.execute(statement)
            _write_head(db, parameters, environment, plan)
            db.execute("COMMIT")
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        os.replace(new, path)


def _write_head(
    db: sqlite3.Connection,
    parameters: dict[str, Any],
    environment: dict[str, Any],
    plan: Sequence[int],
) -> None:
    values = [1, _json(parameters), _json(environment), _json(list(plan))]
    db.execute("INSERT OR REPLACE INTO run VALUES (?, ?, ?, ?, ?)", _sealed(values))


def _check_magic(path: Path) -> None:
    with open(path, "rb") as file:
        head = file.read(100)
    if not head:
        raise RunFileError(f"`{path}` is empty, not a run file.")
    if not head.startswith(b"SQLite format 3\0"):
        raise RunFileError(f"`{path}` is not a run file: it begins with {head[:16]!r}.")
    if len(head) < 100:
        raise RunFileError(f"`{path}` is damaged: it ends after {len(head)} bytes.")


@contextlib.contextmanager
def _named(path: Path, doing: str) -> Iterator[None]:
    """Turn the errors of the file system and of SQLite into one that names the path."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        kept = " What was committed is whole, and can be resumed." if doing == "write" else ""
        raise RunFileError(f"Cannot {doing} `{path}`: {reason}.{kept}") from error


def _differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    return [
        f"`{name}` is {there.get(name)!r} there and {here.get(name)!r} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _sealed(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return the values with their checksum at the end."""
    text = json.dumps(list(values))
    return (*values, hashlib.blake2b(text.encode(), digest_size=8).hexdigest())


def _is_sealed(values: Sequence[Any]) -> bool:
    try:
        return bool(_sealed(values[:-1])[-1] == values[-1])
    except TypeError:
        return False


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a class is named twice")
    return dict(pairs)
