"""The field's certification log: one row per image, tab-separated, read strictly, rounded down."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import ROUND_FLOOR, Context, Decimal
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tcertify._checks import MAX_SAMPLES, check_non_negatives, check_whole, check_whole_array
from tcertify._files import complete_text

COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")

#: No row of six short fields comes near this; a longer line is never held in memory whole.
MAX_LINE_BYTES = 4096

#: Enough digits for the largest float and all decimals that may be asked for.
_EXACT = Context(prec=400)

#: Further names of the column `method` are not kept.
_METHODS_NAMED = 8

_NUMBER = re.compile(rb"(-?)(\d{1,30})(?:\.(\d{0,30}))?(?:[eE]([-+]?\d{1,3}))?")
_TIME = re.compile(rb"(?:(\d{1,6}) days?, )?(\d{1,6}):(\d\d):(\d\d(?:\.\d{1,9})?)")


class LogError(ValueError):
    """A log that cannot be trusted; the message names the file, the line and the reason."""


@dataclass(frozen=True, eq=False)
class Log:
    """What a certification log says, one entry per image.

    Attributes
    ----------
    idx, label, predict
        int64 arrays of shape ``(M,)``; `predict` is -1 where the certifier abstained.
    radius
        float64 array, the radii as printed.
    correct
        bool array: a certified prediction that equals the label.
    seconds
        float64 array, the time that each image took.
    radius_step
        float64 array, one unit of the last printed digit: the radius before printing lay within
        half of it when rounded to nearest, and less than one above when rounded down.
    methods
        What the column `method` names, sorted (eight names at most); empty where a log has none,
        as the field's logs do. tcertify writes it into logs that are not plain CERTIFY:
        ``"joint"``, ``"t-certify"``, with the endings ``"-reported"`` where only images that came
        out well were certified, ``"-holm"`` where one radius was certified for all images at once,
        ``"-charged"`` where alpha paid for Gaussian noise as it is drawn, ``"-reserved"`` where
        some of it is or was kept for topping up, ``"-early"`` where samples stopped early and
        ``"-planned"`` where each image got samples of its own number.
    notes
        What was unusual in the file and yet accepted, one sentence each.
    """

    idx: NDArray[np.int64]
    label: NDArray[np.int64]
    predict: NDArray[np.int64]
    radius: NDArray[np.float64]
    correct: NDArray[np.bool_]
    seconds: NDArray[np.float64]
    radius_step: NDArray[np.float64]
    methods: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_log(path: str | os.PathLike[str]) -> Log:
    """Every row of a certification log, or an error with the line that cannot be trusted.

    The first line names the columns ``idx label predict radius correct time`` in any order, and
    perhaps ``method`` (further columns are ignored). The file must be ASCII and its last line
    complete; lines end alike, in the Unix or the Windows way, and the latter is noted. How the
    radii were rounded is inferred: when all nonzero radii show equally many decimals that is the
    format; otherwise the largest number of significant digits is.

    Parameters
    ----------
    path
        The log. Memory grows by 65 bytes per row, however long its lines.

    Returns
    -------
    Log

    Raises
    ------
    LogError
        A missing column, a field that is no number (``nan`` and ``inf`` included), a negative
        radius, an index that appears twice, a radius beside an abstention, a `correct` that
        contradicts the labels, a torn last line, carriage returns at some lines only, a byte order
        mark, UTF-16, NUL bytes, or no row at all.
    OSError
        The file cannot be read.
    """
    path = Path(path)
    integers = {name: array("q") for name in ("idx", "label", "predict", "correct")}
    radius, seconds, decimals = array("d"), array("d"), array("h")
    methods: set[bytes] = set()
    with _named(path), path.open("rb") as file:
        first = file.readline(MAX_LINE_BYTES)
        end = b"\r\n" if first.endswith(b"\r\n") else b"\n"
        lines = _lines(first, file, path, end)
        positions, width, method = _header(next(lines, b""), path)
        for number, line in enumerate(lines, start=2):
            fields = line.split(b"\t")
            if len(fields) != width:
                raise _error(path, number, f"expected {width} fields, got {len(fields)}")
            try:
                row = _row([fields[position] for position in positions])
            except ValueError as error:
                raise _error(path, number, str(error)) from None
            for column, value in zip(integers.values(), row[:4], strict=True):
                column.append(value)
            radius.append(row[4])
            decimals.append(row[5])
            seconds.append(row[6])
            if method is not None and len(methods) < _METHODS_NAMED:
                methods.add(fields[method])
    if not radius:
        raise _error(path, 2, "the log holds no row")
    _refuse_duplicates(np.asarray(integers["idx"]), path)
    values = np.asarray(radius)
    return Log(
        idx=np.asarray(integers["idx"]),
        label=np.asarray(integers["label"]),
        predict=np.asarray(integers["predict"]),
        radius=values,
        correct=np.asarray(integers["correct"]) == 1,
        seconds=np.asarray(seconds),
        radius_step=_print_steps(values, np.asarray(decimals)),
        methods=tuple(sorted(_shown(name)[1:-1] for name in methods)),
        notes=() if end == b"\n" else (f"{path}: lines end as on Windows (CRLF).",),
    )


def write_log(
    path: str | os.PathLike[str],
    *,
    idx: ArrayLike,
    label: ArrayLike,
    predict: ArrayLike,
    radius: ArrayLike,
    seconds: ArrayLike,
    decimals: int = 10,
    method: str = "certify",
) -> None:
    """Write a certification log in which no printed radius is above the given one.

    Existing analysis scripts read it; `correct` is 1 where `predict` equals `label`. The file
    appears under its name only when it is complete.

    Parameters
    ----------
    path
        The file to write; an existing one is replaced.
    idx, label, predict
        Whole numbers of shape ``(M,)``; `predict` is -1 for an abstention.
    radius
        Finite, at least 0, and 0 for an abstention.
    seconds
        The time that each image took, printed as ``h:mm:ss``.
    decimals
        Decimals of the radius, which is rounded down.
    method
        What made the radii. Anything but ``"certify"`` is written into a seventh column,
        ``method``, which scripts that go by column names do not mind: such radii do not lie on
        CERTIFY's lattice at alpha (nor those of ``"certify-charged"``, ``"certify-reserved"`` and
        ``"certify-reported"``), and those of one radius for all at once (``"certify-holm"``), of a
        run that stopped early (``"certify-early"``) or planned its samples (``"certify-planned"``)
        are not the radii of the full run. Lower-case letters, digits and hyphens.

    Raises
    ------
    ValueError
        Arrays of different lengths, or values that `read_log` would refuse.
    OSError
        The file cannot be written; one that stood there before is left as it was.
    """
    rows = _checked_columns(idx, label, predict, radius, seconds)
    check_whole("decimals", decimals, maximum=30)
    if not re.fullmatch("[a-z][a-z0-9-]{0,30}", method):
        raise ValueError(
            f"`method` must be lower-case letters, digits and hyphens, got {method!r}."
        )
    names, last = (COLUMNS, ()) if method == "certify" else ((*COLUMNS, "method"), (method,))
    with complete_text(path) as file:
        print(*names, sep="\t", file=file)
        for i, true, predicted, r, s in zip(*(column.tolist() for column in rows), strict=True):
            shown = format_down(r, decimals)
            took = timedelta(seconds=s)
            row = (i, true, predicted, shown, int(predicted == true), took, *last)
            print(*row, sep="\t", file=file)


def format_down(value: float, decimals: int) -> str:
    """`value` in fixed notation, never above the exact float.

    >>> format_down(0.29999, 3), format_down(2.0, 3)
    ('0.299', '2.000')
    """
    shown = Decimal(value).quantize(Decimal(1).scaleb(-decimals), ROUND_FLOOR, _EXACT)
    return format(shown, "f")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in an error of reading, which the system leaves without a name."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _lines(first: bytes, file: IO[bytes], path: Path, end: bytes) -> Iterator[bytes]:
    """Lines without their end, each checked for what plain text must not hold."""
    rest = iter(lambda: file.readline(MAX_LINE_BYTES), b"")
    for number, line in enumerate(chain([first] if first else [], rest), start=1):
        if number == 1 and line.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
            raise _error(path, 1, "starts with a byte order mark; save the log as plain ASCII")
        if b"\0" in line:
            raise _error(path, number, "holds a NUL byte (UTF-16 or a damaged file)")
        if len(line) == MAX_LINE_BYTES:
            raise _error(path, number, f"is longer than {MAX_LINE_BYTES} bytes")
        if not line.endswith(b"\n"):
            raise _error(path, number, "is torn: the last line has no newline at its end")
        if not line.endswith(end):
            raise _error(path, number, "ends otherwise than line 1, which has CRLF")
        if b"\r" in line[: -len(end)]:
            raise _error(path, number, "holds a carriage return that line 1 does not end with")
        yield line[: -len(end)]


def _header(line: bytes, path: Path) -> tuple[list[int], int, int | None]:
    """Where each of the columns stands, how many fields a row has, where its method stands."""
    names = line.decode("ascii", "replace").split("\t")
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise _error(path, 1, f"the header lacks {', '.join(missing)} (tab-separated)")
    twice = [name for name in COLUMNS if names.count(name) > 1]
    if twice:
        raise _error(path, 1, f"the header names {', '.join(twice)} twice")
    method = names.index("method") if "method" in names else None
    return [names.index(name) for name in COLUMNS], len(names), method


def _row(fields: list[bytes]) -> tuple[int, int, int, int, float, int, float]:
    """(idx, label, predict, correct, radius, decimals of the radius, seconds)."""
    idx, label = _whole("idx", fields[0]), _whole("label", fields[1])
    predict = -1 if fields[2] == b"-1" else _whole("predict", fields[2])
    radius, decimals = _radius(fields[3])
    correct = _whole("correct", fields[4])
    if predict == -1 and radius > 0:
        raise ValueError(f"`predict` abstains (-1) beside a radius of {radius}")
    if correct != (predict == label):
        raise ValueError(f"`correct` is {correct} but predict {predict}, label {label}")
    return idx, label, predict, correct, radius, decimals, _seconds(fields[5])


def _whole(name: str, field: bytes) -> int:
    # bytes.isdigit is ASCII only; int() alone would take "1_000" and " 7".
    if not field.isdigit():
        raise ValueError(f"`{name}` must be a whole number, got {_shown(field)}")
    if len(field) > 16 or int(field) > MAX_SAMPLES:
        raise ValueError(f"`{name}` must be at most {MAX_SAMPLES}, got {_shown(field)}")
    return int(field)


def _radius(field: bytes) -> tuple[float, int]:
    match = _NUMBER.fullmatch(field)
    value = float(field) if match else np.inf
    if match is None or not value < np.inf:
        raise ValueError(f"`radius` must be a finite number, got {_shown(field)}")
    if match[1]:
        raise ValueError(f"`radius` must be non-negative, got {_shown(field)}")
    return value, len(match[3] or b"") - int(match[4] or 0)


def _seconds(field: bytes) -> float:
    match = _TIME.fullmatch(field)
    if match:
        days, hours, minutes, seconds = match.groups()
        whole = 86400 * int(days or 0) + 3600 * int(hours) + 60 * int(minutes)
        return whole + float(seconds)
    if _NUMBER.fullmatch(field) and not field.startswith(b"-"):
        return float(field)
    raise ValueError(f"`time` must be h:mm:ss or seconds, got {_shown(field)}")


def _print_steps(radius: NDArray[np.float64], decimals: NDArray[np.int16]) -> NDArray[np.float64]:
    """One unit of the last digit printed, per value; trailing zeros may have been dropped."""
    nonzero = radius > 0
    if not nonzero.any() or np.ptp(decimals[nonzero]) == 0:
        return np.full(len(radius), 10.0 ** -int(decimals[np.argmax(nonzero)]))
    exponent = np.floor(np.log10(radius, where=nonzero, out=np.zeros_like(radius)))
    significant = np.max((decimals + exponent + 1)[nonzero])
    return np.where(nonzero, 10.0 ** (exponent + 1 - significant), 0.0)


def _refuse_duplicates(idx: NDArray[np.int64], path: Path) -> None:
    order = np.argsort(idx, kind="stable")
    repeats = np.flatnonzero(np.diff(idx[order]) == 0)
    if repeats.size:
        first = repeats[np.argmin(order[repeats + 1])]
        before, row = order[first], order[first + 1]
        raise _error(path, row + 2, f"index {idx[row]} stands in line {before + 2} already")


def _checked_columns(
    idx: ArrayLike, label: ArrayLike, predict: ArrayLike, radius: ArrayLike, seconds: ArrayLike
) -> list[NDArray[Any]]:
    wholes = [
        check_whole_array("idx", idx),
        check_whole_array("label", label),
        check_whole_array("predict", predict, minimum=-1),
    ]
    radii = check_non_negatives("radius", radius)
    columns = [*wholes, radii, check_non_negatives("seconds", seconds)]
    if any(column.ndim != 1 or column.shape != columns[0].shape for column in columns):
        shapes = ", ".join(str(column.shape) for column in columns)
        raise ValueError(f"The columns must be 1-d and equally long, got shapes {shapes}.")
    beside = (wholes[2] == -1) & (radii > 0)
    if beside.any():
        raise ValueError(f"`radius` must be 0 for an abstention, got {radii[beside][0]}.")
    return columns


def _error(path: Path, line: int, reason: str) -> LogError:
    return LogError(f"{path}, line {line}: {reason}.")


def _shown(field: bytes) -> str:
    return repr(field[:40].decode("ascii", "backslashreplace"))
