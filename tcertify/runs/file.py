"""The run file: every certificate with the votes that prove it, in one SQLite file.

The file is whole at any moment: it is written in WAL mode, with ``synchronous=FULL``, so that a
committed image survives the end of the process and of the power. One fsync per commit is the
price; images are committed together, four times a second at most, so it is hardly felt.

docs/run-file.md describes the format.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_type_hints

import numpy as np
from numpy.typing import NDArray

from tcertify._files import PARTIAL, complete
from tcertify.errors import RunFileError
from tcertify.runs.lock import Lock
from tcertify.runs.row import MAX_IMAGES, Record, Row, pack, storable, unpack
from tcertify.runs.settings import Settings
from tcertify.runs.shards import describe_part

FORMAT = 1
_APPLICATION_ID = int.from_bytes(b"tcrf")
_UNRELEASED = int.from_bytes(b"tcrt")
_COMMIT_SECONDS = 0.25

#: Images that one run may plan.
MAX_PLAN = 2**22

#: Nothing larger is read: a text of the head, a warning, and any value at all.
_MOST_JSON, _MOST_WARNINGS, _MOST_BYTES = 2**20, 1000, 2**26
_MOST_UNREADABLE = 10_000

#: Parameters that a resume does not compare as they stand: `provenance.check_probe` does.
_COMPARED_ELSEWHERE = {"probe"}

_TABLES = (
    """CREATE TABLE run (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  parameters TEXT NOT NULL,
  environment TEXT NOT NULL,
  plan BLOB NOT NULL,
  whole BLOB,
  checksum TEXT NOT NULL
)""",
    """CREATE TABLE certificate (
  image_id INTEGER PRIMARY KEY CHECK (image_id >= 0),
  label INTEGER NOT NULL CHECK (label >= 0),
  predicted INTEGER NOT NULL CHECK (predicted >= -1),
  radius REAL NOT NULL CHECK (radius >= 0),
  p_a_lower REAL NOT NULL CHECK (p_a_lower BETWEEN 0 AND 1),
  p_b_upper REAL NOT NULL CHECK (p_b_upper BETWEEN 0 AND 1),
  n INTEGER NOT NULL CHECK (n >= 0),
  invalid INTEGER NOT NULL CHECK (invalid BETWEEN 0 AND n),
  top INTEGER NOT NULL CHECK (top >= -1),
  look INTEGER NOT NULL CHECK (look >= 0),
  selection BLOB NOT NULL,
  looks BLOB NOT NULL,
  squared_levels INTEGER,
  seconds REAL NOT NULL CHECK (seconds >= 0),
  error TEXT,
  checksum TEXT NOT NULL
)""",
    "CREATE TABLE warning (text TEXT PRIMARY KEY)",
)
_SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_schema"
_COLUMNS = ", ".join(Record._fields)
_TYPES = tuple(get_type_hints(Record).values())


class RunWriter:
    """The one writer of a run file: adds rows, commits them, and lets nobody else write.

    Parameters
    ----------
    path
        The run file.
    parameters
        What the rows depend on, `Settings` among them; a resume with others is refused.
    environment
        What is worth knowing besides (device, batch size, time).
    plan
        The images that this file is to certify; a resume adds to those planned before.
    whole
        The images of the whole run, where this file is a shard of it.
    resume, overwrite
        Continue, or replace, a run file that exists; else it is an error.

    Attributes
    ----------
    done : set of int
        The images whose rows are there.
    parameters : dict
        Those of the file.

    Raises
    ------
    RunFileError
        When the path cannot be written, holds something else, belongs to a live writer, or was
        made with other parameters, or as another shard. An existing file is then left as it was.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        parameters: dict[str, Any],
        environment: dict[str, Any],
        plan: Sequence[int],
        *,
        whole: Sequence[int] | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self.parameters: dict[str, Any] = json.loads(_json(parameters))
        self.settings = Settings.from_parameters(self.parameters)
        self.done: set[int] = set()
        self._plan = list(plan)
        real = Path(os.path.realpath(path))
        with _named(self.path, "create"):
            if real.is_dir():
                raise RunFileError(f"Cannot write `{path}`: it is a folder.")
            self._lock = Lock(real)
        try:
            if real.exists():
                self._check_existing(resume, overwrite, whole)
            if overwrite or not real.exists():
                _create(self.path, self.parameters, environment, self._plan, whole)
            with _named(self.path, "write"):
                self._file = os.stat(real)
                self._db = _connect(real)
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._begin(environment, whole)
        except BaseException:
            self._lock.release()
            raise
        if self._lock.stale:
            self.warn(f"The writer before, {self._lock.stale}, ended without closing the file.")

    def _check_existing(self, resume: bool, overwrite: bool, whole: Sequence[int] | None) -> None:
        """Refuse a foreign file always, and a run file unless it may be continued or replaced."""
        with RunFile(self.path) as run:
            if overwrite:
                return
            if not resume:
                raise RunFileError(
                    f"`{self.path}` exists: resume the run that it holds, or overwrite it."
                )
            run.check_structure()
            self._check_shard(run, [*(self._plan if whole is None else whole)])
            check_made_alike("resume", self.path, run.parameters, self.parameters)
            self.parameters = run.parameters
            self.done = {record.image_id for record in run.records()}
            self._plan = [*dict.fromkeys((*run.plan, *self._plan))]

    def _check_shard(self, run: RunFile, whole: list[int]) -> None:
        """Refuse to make a shard another one; the plan of what is no shard may grow."""
        if not run.is_shard and len(whole) == len(self._plan):
            return
        if (run.plan, run.whole) != (self._plan, whole):
            raise RunFileError(
                f"Cannot resume `{self.path}`: it is {describe_part(run.plan, run.whole)}, and"
                f" asked for is {describe_part(self._plan, whole)}."
            )

    def _begin(self, environment: dict[str, Any], whole: Sequence[int] | None) -> None:
        """Note who writes now, and drop the rows that lost their checksums, to make them again."""
        self._db.execute("BEGIN IMMEDIATE")
        _write_head(self._db, self.parameters, environment, self._plan, whole)
        stored = [image for (image,) in self._db.execute("SELECT image_id FROM certificate")]
        for image in stored:
            if image not in self.done:
                self._db.execute("DELETE FROM certificate WHERE image_id = ?", (image,))
                self.warn(f"The row of image {image} was damaged; the image is certified again.")
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
        """Add rows; an equal row that is there already is kept, a different one is an error.

        Raises
        ------
        RunFileError
            A row whose votes are not those that the run's settings ask for, or one that differs
            from what is there; or the file cannot be written any more.
        """
        with _named(self.path, "write"):
            if not self._db.in_transaction:
                self._db.execute("BEGIN IMMEDIATE")
            for row in rows:
                self._insert(row)
                self.done.add(row.image_id)
        if time.monotonic() - self._committed > _COMMIT_SECONDS:
            self.commit()

    def _insert(self, row: Row) -> None:
        record = self._checked(row)
        there = _insert(self._db, record)
        if there is not None and there._replace(seconds=row.seconds) != record:
            raise RunFileError(f"`{self.path}` holds another row for image {row.image_id}.")

    def _checked(self, row: Row) -> Record:
        record = row.record()
        try:
            row.check(self.settings)
            if defect := record.defect(self.settings.num_classes):
                raise ValueError(f"{defect}.")
        except ValueError as error:
            raise RunFileError(
                f"`{self.path}` takes no such row for image {row.image_id}: {error}"
            ) from None
        return record

    def warn(self, text: str) -> None:
        """Store a warning with the run, once."""
        with _named(self.path, "write"):
            self._db.execute("INSERT OR IGNORE INTO warning VALUES (?)", (storable(text),))

    def commit(self) -> None:
        """Make what was added durable; a RunFileError where the file is there no more."""
        with _named(self.path, "write"):
            if not _is(self.path, self._file):
                raise RunFileError(
                    f"`{self.path}` was removed or replaced while it was written: what was"
                    " certified is lost."
                )
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


class RunCopy:
    """A run file that is made at once from rows of others; see `whole_copy`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add(self, record: Record) -> Record | None:
        """Add a row as it stands; return the one that is there already, which stays."""
        return _insert(self._db, record)

    def images(self) -> NDArray[np.int64]:
        """Return the images whose rows are there, in order."""
        found = self._db.execute("SELECT image_id FROM certificate ORDER BY image_id")
        return np.fromiter((image for (image,) in found), np.int64)

    def warn(self, text: str) -> None:
        """Store a warning, once."""
        self._db.execute("INSERT OR IGNORE INTO warning VALUES (?)", (storable(text),))


@contextlib.contextmanager
def whole_copy(
    path: Path, parameters: dict[str, Any], environment: dict[str, Any], plan: Sequence[int]
) -> Iterator[RunCopy]:
    """Yield a run file to fill; it gets its name at the end, whole and durable, or not at all.

    Rows go to the disk as they are added, so that memory does not grow with them.
    """
    with _named(path, "create"), complete(path):
        partial = Path(f"{os.path.realpath(path)}{PARTIAL}")
        with contextlib.closing(sqlite3.connect(partial, isolation_level=None)) as db:
            for pragma in ("journal_mode = OFF", "synchronous = OFF"):  # nobody reads it yet
                db.execute(f"PRAGMA {pragma}")
            db.execute("BEGIN")
            _make_tables(db)
            _write_head(db, parameters, environment, plan, None)
            yield RunCopy(db)
            db.execute("COMMIT")
        _remove_logs(path)


class RunFile:
    """A run file, read: its parameters, and every row whose checksum matches.

    ``damage`` grows by one sentence for each damaged thing that is met; nothing damaged is ever
    returned. What is read is bounded, whatever the file says.

    Attributes
    ----------
    parameters, environment : dict
        What the rows depend on, and what is worth knowing besides.
    settings : Settings
        Those among the parameters.
    plan, whole : list of int
        The images that this file is to certify, and those of the run that it is a shard of.
    warnings, damage : list of str

    Raises
    ------
    RunFileError
        The file is no run file, has another format, or its parameters cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.damage: list[str] = []
        with _named(self.path, "read"):
            self._head = _checked_head(self.path)
            self._db = _connect(Path(os.path.realpath(path)), read_only=True)
        try:
            with _named(self.path, "read"):
                self._read_run()
        except BaseException:
            self._db.close()
            raise

    def _read_run(self) -> None:
        expected = _expected_schema()
        self._db.execute("BEGIN")  # all that is read is of one moment, whoever writes
        if self._db.execute(_SCHEMA).fetchmany(len(expected) + 1) != expected:
            raise RunFileError(f"`{self.path}` has other tables than a run file: damaged?")
        heads = self._db.execute("SELECT * FROM run").fetchmany(2)
        if len(heads) != 1 or not _is_sealed(heads[0]):
            raise RunFileError(f"`{self.path}` is damaged: its parameters cannot be read.")
        _, parameters, environment, plan, whole, _ = heads[0]
        try:
            self.parameters = _parsed(parameters)
            self.environment = _parsed(environment)
            self.plan = _images(plan)
            self.whole = self.plan if whole is None else _images(whole)
            if not {*self.plan} <= {*self.whole}:
                raise ValueError("the plan is no part of the whole run")
        except (TypeError, ValueError, RecursionError) as error:
            raise RunFileError(f"`{self.path}` has parameters of another kind: {error}.") from None
        try:
            self.settings = Settings.from_parameters(self.parameters)
        except (ValueError, TypeError, OverflowError) as error:
            raise RunFileError(
                f"`{self.path}` has parameters that make no sense: {error}"
            ) from None
        query = f"SELECT substr(text, 1, 10000) FROM warning LIMIT {_MOST_WARNINGS}"
        self.warnings = [str(text) for (text,) in self._db.execute(query)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._db.close()

    @property
    def is_shard(self) -> bool:
        """Whether the file is a part of a run only."""
        return len(self.plan) < len(self.whole)

    def rows(self) -> Iterator[Row]:
        """Yield the whole rows in the order of their images, one at a time."""
        for record in self.records():
            try:
                yield Row.from_record(record, self.settings)
            except ValueError as error:
                self.damage.append(f"The row of image {record.image_id} holds no votes: {error}.")

    def records(self) -> Iterator[Record]:
        """Yield the rows of `rows` as they stand in the file, their votes unread."""
        last = -1
        try:
            for values in self._db.execute(f"SELECT {_COLUMNS}, checksum FROM certificate"):
                if not values[0] > last:
                    self.damage.append("The table of certificates is damaged: its order is lost.")
                    return
                last = values[0]
                yield from self._whole(values)
        except sqlite3.Error as error:
            self.damage.append(f"The table of certificates is damaged: {error}.")
            yield from self._records_one_by_one(last)

    def row(self, image_id: int) -> Row | None:
        """Return the row of an image, if one is there that is whole; a ValueError names votes that
        are none.
        """
        with _named(self.path, "read"):
            record = next(self._records_of(image_id), None)
        return None if record is None else Row.from_record(record, self.settings)

    def _records_of(self, image_id: int) -> Iterator[Record]:
        query = f"SELECT {_COLUMNS}, checksum FROM certificate WHERE image_id = ?"
        for values in self._db.execute(query, (image_id,)):
            yield from self._whole(values)

    def _records_one_by_one(self, last: int) -> Iterator[Record]:
        unreadable = 0
        for image in sorted(image for image in self.plan if image > last):
            try:
                yield from self._records_of(image)
            except sqlite3.Error:
                self.damage.append(f"The row of image {image} cannot be read.")
                unreadable += 1
            if unreadable == _MOST_UNREADABLE:
                return

    def _whole(self, values: tuple[Any, ...]) -> Iterator[Record]:
        typed = all(isinstance(value, kind) for value, kind in zip(values, _TYPES, strict=False))
        if not (typed and _is_sealed(values)):
            self.damage.append(f"The row of image {values[0]} does not match its checksum.")
            return
        record = Record(*values[:-1])
        defect = record.defect(self.settings.num_classes)
        if defect:
            self.damage.append(f"The row of image {values[0]} is not a row: {defect}.")
        else:
            yield record

    def structure(self) -> list[str]:
        """Return what is wrong with the file: its length, and ``PRAGMA integrity_check``."""
        try:
            found = [str(text) for (text,) in self._db.execute("PRAGMA integrity_check")]
        except sqlite3.Error as error:
            found = [str(error)]
        return self._truncation() + [text for text in found if text != "ok"]

    def _truncation(self) -> list[str]:
        """Return whether the file is shorter than it says: SQLite reads what is missing as zeros.

        Where a write-ahead log is left, the pages that the file lacks are in there: a checkpoint
        was cut short by a full disk or a kill, and SQLite completes it.
        """
        log = Path(f"{os.path.realpath(self.path)}-wal")
        if log.exists() and log.stat().st_size:
            return []
        pages, page = int.from_bytes(self._head[28:32]), int.from_bytes(self._head[16:18])
        whole, size = pages * (65536 if page == 1 else page), self.path.stat().st_size
        return [f"it ends after {size} of {whole} bytes"] if size < whole else []

    def check_structure(self) -> None:
        """Raise `RunFileError` when SQLite finds the file damaged."""
        found = self.structure()
        if found:
            raise RunFileError(f"`{self.path}` is damaged: {found[0]}.")


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a database so that nothing in it is executed and nothing large is read."""
    access = "mode=rw"
    if read_only:
        # Without a write-ahead log nothing is pending, and a read-only folder will do.
        access = "mode=ro" if Path(f"{path}-wal").exists() else "immutable=1"
    db = sqlite3.connect(f"{path.as_uri()}?{access}", uri=True, isolation_level=None)
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_BYTES)
    db.execute("PRAGMA trusted_schema = OFF")
    if read_only:
        db.text_factory = lambda raw: raw.decode("utf-8", "replace")
        # Lets SQLite read what is left of a truncated file.
        db.execute("PRAGMA writable_schema = ON")
    return db


def _create(
    path: Path,
    parameters: dict[str, Any],
    environment: dict[str, Any],
    plan: Sequence[int],
    whole: Sequence[int] | None,
) -> None:
    """Write a run file without rows, whole or not at all."""
    with _named(path, "create"), complete(path) as file:
        with contextlib.closing(_empty()) as db:
            _write_head(db, parameters, environment, plan, whole)
            file.write(db.serialize())
        _remove_logs(path)


def _remove_logs(path: Path) -> None:
    """Remove what is left of the file that stood here before."""
    for suffix in ("-wal", "-shm"):
        Path(f"{os.path.realpath(path)}{suffix}").unlink(missing_ok=True)


def _empty() -> sqlite3.Connection:
    """Return a database in memory with the tables of a run file."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    _make_tables(db)
    return db


def _make_tables(db: sqlite3.Connection) -> None:
    db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {FORMAT}")
    for statement in _TABLES:
        db.execute(statement)


def _insert(db: sqlite3.Connection, record: Record) -> Record | None:
    """Add a row; return the one of the same image that is there already, which stays."""
    marks = ", ".join("?" * (len(record) + 1))
    inserted = db.execute(
        f"INSERT INTO certificate VALUES ({marks}) ON CONFLICT (image_id) DO NOTHING",
        _sealed(record),
    ).rowcount
    if inserted:
        return None
    query = f"SELECT {_COLUMNS} FROM certificate WHERE image_id = ?"
    return Record(*db.execute(query, (record.image_id,)).fetchone())


@functools.cache
def _expected_schema() -> list[tuple[Any, ...]]:
    with contextlib.closing(_empty()) as db:
        return db.execute(_SCHEMA).fetchall()


def _write_head(
    db: sqlite3.Connection,
    parameters: dict[str, Any],
    environment: dict[str, Any],
    plan: Sequence[int],
    whole: Sequence[int] | None,
) -> None:
    images = [None if ids is None else pack(np.array(ids, np.int64)) for ids in (plan, whole)]
    values = [1, _json(parameters), _json(environment), *images]
    db.execute("INSERT OR REPLACE INTO run VALUES (?, ?, ?, ?, ?, ?)", _sealed(values))


def _checked_head(path: Path) -> bytes:
    """Return the first 100 bytes of a run file of this format; raise for any other file."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise RunFileError(f"`{path}` is not a run file: it is no regular file.")
    with open(path, "rb") as file:
        head = file.read(100)
    if not head:
        raise RunFileError(f"`{path}` is empty, not a run file.")
    if not head.startswith(b"SQLite format 3\0"):
        raise RunFileError(f"`{path}` is not a run file: it begins with {head[:16]!r}.")
    if len(head) < 100:
        raise RunFileError(f"`{path}` is damaged: it ends after {len(head)} bytes.")
    application, version = int.from_bytes(head[68:72]), int.from_bytes(head[60:64])
    if application == _UNRELEASED:
        raise RunFileError(
            f"`{path}` is a run file of an unreleased format, which cannot be read any more:"
            " certify again."
        )
    if application != _APPLICATION_ID:
        raise RunFileError(f"`{path}` is an SQLite file of another program.")
    if version != FORMAT:
        raise RunFileError(f"`{path}` has the format {version}; this version reads {FORMAT}.")
    if max(head[18:20]) > 2 or int.from_bytes(head[56:60]) != 1:
        raise RunFileError(
            f"`{path}` is damaged: it claims another version or text encoding of SQLite."
        )
    return head


def _is(path: Path, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), file)
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _named(path: Path, doing: str) -> Iterator[None]:
    """Turn the errors of the file system and of SQLite into one that names the path."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        kept = " What was committed is whole, and can be resumed." if doing == "write" else ""
        raise RunFileError(f"Cannot {doing} `{path}`: {reason}.{kept}") from error


def check_made_alike(doing: str, path: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Raise unless what is there was made with the parameters that are here."""
    found = [
        f"`{name}` is {value} there and {other} here"
        for name, value, other in differences(there, here)
    ]
    if found:
        raise RunFileError(f"Cannot {doing} `{path}`, it was made otherwise: {'; '.join(found)}.")


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the parameters that differ, with their values there and here as text."""
    return [
        (name, _shown(there.get(name)), _shown(here.get(name)))
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name) and name not in _COMPARED_ELSEWHERE
    ]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 70 else f"{text[:70]}..."


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _parsed(text: Any) -> dict[str, Any]:
    """Return the object in a JSON text of the head."""
    if not isinstance(text, str) or len(text) > _MOST_JSON:
        raise ValueError(f"they are no text of at most {_MOST_JSON} characters")
    value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)
    if not isinstance(value, dict):
        raise ValueError("they are no object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _images(content: Any) -> list[int]:
    """Return the images of a plan."""
    if not isinstance(content, bytes):
        raise ValueError("the plan is no list of images")
    images = unpack(content, most=MAX_PLAN)
    if len(np.unique(images)) < len(images) or (
        len(images) and not 0 <= images.min() <= images.max() < MAX_IMAGES
    ):
        raise ValueError("the plan names an image twice, or one that there cannot be")
    return [int(image) for image in images]


def _sealed(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return the values with their checksum at the end."""
    text = json.dumps([v.hex() if isinstance(v, bytes) else v for v in values])
    return (*values, hashlib.blake2b(text.encode(), digest_size=8).hexdigest())


def _is_sealed(values: Sequence[Any]) -> bool:
    try:
        return bool(_sealed(values[:-1])[-1] == values[-1])
    except TypeError:
        return False
