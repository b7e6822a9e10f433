"""A row of a run: what was certified for one image, and the votes that prove it."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from tcertify._checks import MAX_SAMPLES
from tcertify.runs.settings import MAX_VOTES, NOTHING, ROUNDING, Settings
from tcertify.votes import Votes

#: An image of a data set is told apart by 32 bits of the noise's counter.
MAX_IMAGES = 2**32

#: More than thirty years for one image are no measurement.
MAX_SECONDS = 1e9

_INT64 = 8
_MOST_TEXT = 2000


class Record(NamedTuple):
    """A row as it stands in the file, column by column; see `Row`."""

    image_id: int
    label: int
    predicted: int
    radius: float
    p_a_lower: float
    p_b_upper: float
    n: int
    invalid: int
    top: int
    look: int
    selection: bytes
    looks: bytes
    squared_levels: int | None
    seconds: float
    error: str | None

    def defect(self, num_classes: int) -> str | None:
        """Return which column holds what no row can hold, if one does."""
        most = num_classes - 1
        ranges: dict[str, tuple[float, float]] = {
            "image_id": (0, MAX_IMAGES - 1),
            "label": (0, most),
            "predicted": (-1, most),
            "radius": (0, math.nextafter(math.inf, 0)),
            "p_a_lower": (0, 1),
            "p_b_upper": (0, 1),
            "n": (0, MAX_SAMPLES),
            "invalid": (0, self.n),
            "top": (-1, most),
            "look": (0, MAX_VOTES),
            "squared_levels": (0, MAX_SAMPLES),
            "seconds": (0, MAX_SECONDS),
        }
        for name, (least, greatest) in ranges.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= greatest:
                return f"`{name}` is {value!r}"
        return None


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Row:
    """One image of a run.

    Attributes
    ----------
    image_id, label : int
        What the noise of the image is drawn from, which is its index in the data set, and its
        true class there (0 where an image could not be loaded, which `error` then says).
    predicted : int
        The certified or predicted class; -1 abstains.
    radius, p_a_lower, p_b_upper : float
        As in `Certificates`.
    top : int
        The class that the selection sample chose; -1 where nothing was selected.
    look : int
        The look whose votes give the certificate.
    selection : int64 array (C + 1,)
        Votes of the selection sample; the last are invalid.
    looks : int64 array (K, C + 1)
        Votes of the estimation sample at each look, all that were cast up to it.
    seconds : float
        The image's share of the time.
    squared_levels : int, optional
        The radius in integers, where integer noise certifies one: the largest sum of squared
        changes, in grey levels, that the certificate covers.
    error : str, optional
        Why the image failed; then nothing is certified.
    """

    image_id: int
    label: int
    predicted: int
    radius: float
    p_a_lower: float
    p_b_upper: float
    top: int
    look: int
    selection: NDArray[np.int64]
    looks: NDArray[np.int64]
    seconds: float
    squared_levels: int | None = None
    error: str | None = None

    @classmethod
    def failed(cls, image_id: int, label: int, error: str, num_classes: int) -> Self:
        """Return the row of an image that could not be certified."""
        predicted, radius, p_a_lower, p_b_upper = NOTHING
        return cls(
            image_id=image_id,
            label=label,
            predicted=predicted,
            radius=radius,
            p_a_lower=p_a_lower,
            p_b_upper=p_b_upper,
            top=-1,
            look=0,
            selection=np.zeros(num_classes + 1, np.int64),
            looks=np.zeros((0, num_classes + 1), np.int64),
            seconds=0.0,
            error=storable(error),
        )

    @classmethod
    def from_record(cls, record: Record, settings: Settings) -> Self:
        """Return the row that a record holds; a ValueError names votes that are none."""
        values = record._asdict()
        n, invalid = values.pop("n"), values.pop("invalid")
        classes, most = settings.num_classes, len(settings.looks)
        values["selection"] = decode_votes(record.selection, classes, most=1).sum(0)
        values["looks"] = decode_votes(record.looks, classes, most=most)
        row = cls(**values)
        if (n, invalid) != (row.n, row.invalid):
            raise ValueError("`n` or `invalid` is not what the votes say")
        return row

    def record(self) -> Record:
        """Return the row as it stands in the file."""
        return Record(
            image_id=self.image_id,
            label=self.label,
            predicted=self.predicted,
            radius=float(self.radius),
            p_a_lower=float(self.p_a_lower),
            p_b_upper=float(self.p_b_upper),
            n=self.n,
            invalid=self.invalid,
            top=self.top,
            look=self.look,
            selection=encode_votes(self.selection[None]),
            looks=encode_votes(self.looks),
            squared_levels=self.squared_levels,
            seconds=float(self.seconds),
            error=self.error,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Row) and self.record() == other.record()

    __hash__ = None  # type: ignore[assignment]

    @property
    def n(self) -> int:
        """Estimation votes, invalid ones included."""
        return int(self.looks[-1].sum()) if len(self.looks) else 0

    @property
    def invalid(self) -> int:
        """Estimation votes that no class received."""
        return int(self.looks[-1, -1]) if len(self.looks) else 0

    def votes(self) -> Votes:
        """Return the estimation votes at each look, with the class that was selected."""
        return Votes.from_columns(self.looks, np.full(len(self.looks), max(self.top, 0)))

    def check(self, settings: Settings) -> None:
        """Raise a ValueError unless the votes are those that a run with these settings casts.

        The votes of the selection sample sum to n0, those of each look to its samples; `top` is
        what the selection sample chose, `squared_levels` what the radius says in integers, and an
        image that failed certifies nothing.
        """
        if self.squared_levels != self._squared_levels(settings):
            raise ValueError(
                f"`squared_levels` is {self.squared_levels}, but its radius {self.radius!r} gives"
                f" {self._squared_levels(settings)}."
            )
        if self.error is not None:
            if (self.predicted, self.radius, self.p_a_lower, self.p_b_upper) != NOTHING:
                raise ValueError("it failed, and yet it is certified.")
            return
        if self.selection.sum() != settings.n0:
            raise ValueError(f"its selection votes do not sum to n0 = {settings.n0}.")
        if self.top != (-1 if settings.predicts else self.selection[:-1].argmax()):
            raise ValueError(f"its class {self.top} is not the one that its selection votes give.")
        if not (0 < len(self.looks) <= len(settings.looks) and 0 <= self.look < len(self.looks)):
            raise ValueError(
                f"it has votes at {len(self.looks)} looks, of which look {self.look} gives the"
                " certificate."
            )
        ends = self.looks.sum(1).tolist()
        if not settings.may_end(ends, self.selection, self.label, self.image_id):
            raise ValueError("its estimation votes do not sum to the samples of the looks.")

    def _squared_levels(self, settings: Settings) -> int | None:
        found = int(settings.squared_levels(self.radius))
        return None if found < 0 else found


def storable(text: str) -> str:
    """Return a text that any file can hold: without surrogates, and not endless."""
    return text.encode("utf-8", "backslashreplace").decode()[:_MOST_TEXT]


def encode_votes(looks: NDArray[np.int64]) -> bytes:
    """Return the votes (K, C + 1) of K looks in few bytes.

    What each look adds to the one before is written as little-endian int64, their first bytes
    together, then their second bytes, and so on, and all of it compressed with zlib.
    """
    # their bytes are zero in long runs: looking for nothing else is as small, and ten times as fast
    return pack(np.diff(looks, axis=0, prepend=0), zlib.Z_RLE)


def decode_votes(content: bytes, num_classes: int, *, most: int) -> NDArray[np.int64]:
    """Return the int64 votes (K, C + 1) that `encode_votes` wrote, of `most` looks at most.

    Raises
    ------
    ValueError
        These are no such votes.
    """
    added = unpack(content, most=most * (num_classes + 1))
    if len(added) % (num_classes + 1):
        raise ValueError("these are not votes of as many classes")
    # in floats, which do not overflow
    if (added < 0).any() or added.sum(dtype=np.float64) > MAX_SAMPLES:
        raise ValueError("these are not votes: they are negative, or too many")
    return added.reshape(-1, num_classes + 1).cumsum(0)


def pack(values: NDArray[np.int64], strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    """Return whole numbers in few bytes: the bytes of int64 sorted by place, and zlib."""
    planes = np.ascontiguousarray(values, "<i8").view(np.uint8).reshape(-1, _INT64).T
    compressor = zlib.compressobj(9, strategy=strategy)
    return compressor.compress(np.ascontiguousarray(planes).data) + compressor.flush()


def unpack(content: bytes, *, most: int) -> NDArray[np.int64]:
    """Return the int64 array (M,) that `pack` was given; a ValueError where there is none.

    No more than `most` numbers are unpacked, whatever the content says.
    """
    stream = zlib.decompressobj()
    try:
        planes = stream.decompress(content, most * _INT64 + 1)
    except zlib.error as error:
        raise ValueError(f"it cannot be unpacked ({error})") from None
    if len(planes) > most * _INT64 or len(planes) % _INT64:
        raise ValueError(f"it does not hold at most {most} numbers")
    if not stream.eof or stream.unused_data:
        raise ValueError("it ends too early or too late")
    places = np.frombuffer(planes, np.uint8).reshape(_INT64, -1)
    return np.ascontiguousarray(places.T).view("<i8").astype(np.int64).reshape(-1)


def too_good(row: Row, found: Any, votes: str = "its votes") -> Iterator[str]:
    """Yield what a row says beyond the certificate `found` that its votes give."""
    slack, image = 1 + ROUNDING, f"Image {row.image_id}"
    if row.predicted not in (-1, found["predicted"]):
        yield f"{image}: class {row.predicted}, but {votes} give {found['predicted']}."
    if not row.radius <= found["radius"] * slack:
        yield (
            f"{image}: radius {row.radius!r}, but {votes} support only {float(found['radius'])!r}."
        )
    if row.predicted == -1 and row.radius > 0:
        yield f"{image}: radius {row.radius!r} beside an abstention."
    if not (row.p_a_lower <= found["p_a"] * slack and row.p_b_upper * slack >= found["p_b"]):
        yield (
            f"{image}: bounds {row.p_a_lower!r} and {row.p_b_upper!r}, but {votes}"
            f" support only {float(found['p_a'])!r} and {float(found['p_b'])!r}."
        )
