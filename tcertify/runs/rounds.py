"""The rounds of a run: groups of images are sampled, judged and written."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from tcertify.errors import StoppedError, VotesLostError
from tcertify.runs.images import Loaded, described
from tcertify.runs.row import Row
from tcertify.runs.settings import Settings
from tcertify.sampling import ESTIMATION, PREDICTION, SELECTION
from tcertify.sampling.defects import Defect, recheck, settle
from tcertify.sampling.memory import is_out_of_memory
from tcertify.statistics.stopping import Progress, decide
from tcertify.votes import Votes

#: A round samples at least this many batches, so that its last, partial one does not matter.
_ROUND_BATCHES = 16
_MOST_IMAGES = 256

#: Of so many batches one is cast again, in another composition; of a run's first rounds more.
_RECHECK_BATCHES = 1000

#: After as many images that failed with an exception, a run stops.
FAILURES_IN_A_ROW = 3

#: From an image to its row in the run that is topped up, where that has votes of it.
Before = Callable[[int], Row | None]


def not_begun(image_id: int) -> Row | None:
    """Return that there are no votes of an image yet."""
    return None


class Sink(Protocol):
    """Where rows go: a run file, or what a worker hands back."""

    @property
    def path(self) -> Path:
        """The run file that they end in."""

    def add(self, rows: Iterable[Row]) -> None:
        """Take rows."""

    def warn(self, text: str) -> None:
        """Take a warning of the run."""


class Caster(Protocol):
    """Who casts votes: a `Sampler`, or several of them together."""

    batch_size: int | None

    def count(
        self,
        images: torch.Tensor,
        image_ids: ArrayLike,
        start: ArrayLike,
        stop: ArrayLike,
        stream: int,
    ) -> NDArray[np.int64]:
        """Count votes as `Sampler.count` does."""


@dataclass(eq=False)
class _Image:
    """An image at work, and its votes so far; those of `begun` were cast before."""

    loaded: Loaded
    selection: NDArray[np.int64]
    ends: tuple[int, ...]
    begun: Row | None = None
    looks: list[NDArray[np.int64]] = field(default_factory=list)
    radius: float = 0.0
    best_look: int = -1
    seconds: float = 0.0

    @property
    def top(self) -> int:
        """The class that the selection sample chose; the lowest of several."""
        return int(self.selection[:-1].argmax())

    @property
    def known(self) -> NDArray[np.int64] | None:
        """The votes at its next look, where they were cast before."""
        look = len(self.looks)
        if self.begun is None or look >= len(self.begun.looks):
            return None
        votes: NDArray[np.int64] = self.begun.looks[look]
        return votes


class Rounds:
    """Samples a group of images while the group before is judged, and hands on what is done.

    `recheck` casts votes again and compares, as `tcertify.sampling.defects.recheck` does.
    """

    def __init__(
        self,
        sampler: Caster,
        settings: Settings,
        allow: Iterable[str] = (),
        recheck: Callable[..., list[Defect]] = recheck,
    ) -> None:
        self._sampler = sampler
        self._allow = allow
        self._cast_again = recheck
        self._rounds, self._unchecked = 0, 0.0
        self._settings = settings

    def certify(self, images: Iterator[Loaded], sink: Sink, begun: Before = not_begun) -> list[Row]:
        """Take images until there are no more; each ends as one row.

        An image that was `begun` takes the votes that it has there as if they were cast here.

        Returns
        -------
        list of Row
            The rows of the last images, where these failed: whether one fault is behind them is
            for the caller to say, who may have more images.
        """
        self._sink, self._begun = sink, begun
        self._unloaded: list[Row] = []
        self._unclassified: list[Row] = []
        going: deque[_Image] = deque()
        judging: Future[tuple[list[Row], list[_Image]]] | None = None
        with ThreadPoolExecutor(1, "tcertify_judge") as judge:
            try:
                while (group := self._group(going, images)) or judging:
                    group = self._sampled(group)
                    self._recheck(group)
                    if judging:
                        rows, more = judging.result()
                        judging = None
                        self._sink.add(rows)
                        going.extend(more)
                    judging = judge.submit(self._judged, group) if group else None
            finally:  # whatever ends the run, what is sampled is written
                if judging:
                    self._sink.add(judging.result()[0])
        return self._unloaded + self._unclassified

    def _group(self, going: deque[_Image], images: Iterator[Loaded]) -> list[_Image]:
        """Return images whose samples fill a round of batches: those at work, then new ones."""
        group: list[_Image] = []
        samples, enough = 0, _ROUND_BATCHES * self._batch_rows
        while samples < enough and len(group) < _MOST_IMAGES:
            image = going.popleft() if going else self._next(images)
            if image is None:
                break
            group.append(image)
            samples += self._to_come(image)
        return group

    def _next(self, images: Iterator[Loaded]) -> _Image | None:
        """Return the next image that is whole; those that are not become rows."""
        for loaded in images:
            if loaded.error is None:
                self._end_streak(self._unloaded)
                begun = self._begun(loaded.image_id)
                return _Image(
                    loaded,
                    np.zeros(self._settings.num_classes + 1, np.int64),
                    self._settings.looks,
                    begun,
                    seconds=0.0 if begun is None else begun.seconds,
                )
            self._fail(loaded, loaded.error, self._unloaded)
        return None

    def _to_come(self, image: _Image) -> int:
        """Return how many samples an image needs up to its next look."""
        first = 0 if image.looks or image.begun else self._settings.n0
        return first + self._until(image) - self._seen(image)

    def _seen(self, image: _Image) -> int:
        if image.known is not None:
            return self._until(image)
        return image.ends[len(image.looks) - 1] if image.looks else 0

    def _until(self, image: _Image) -> int:
        return image.ends[len(image.looks)]

    def _sampled(self, group: list[_Image]) -> list[_Image]:
        """Sample each image up to its next look; return those that did not fail."""
        if not group:
            return []
        try:
            self._sample(group)
        except Exception as error:
            if is_out_of_memory(error) or isinstance(error, VotesLostError):
                raise
            if len(group) > 1:  # find the image that fails
                return [image for one in group for image in self._sampled([one])]
            self._fail(group[0].loaded, described(error), self._unclassified, error)
            return []
        self._end_streak(self._unclassified)
        return group

    def _sample(self, group: list[_Image]) -> None:
        started = time.perf_counter()
        new = [image for image in group if not image.looks]
        first = [0 if image.begun else self._settings.n0 for image in new]
        selections: Sequence[NDArray[np.int64]] = []
        if first:
            selections = [*self._count(new, [0] * len(new), first, SELECTION)]
        stream = PREDICTION if self._settings.predicts else ESTIMATION
        for image, selection in zip(new, selections, strict=True):
            image.selection = image.begun.selection if image.begun else selection
            image.ends = self._settings.ends(
                image.selection, image.loaded.label, image.loaded.image_id
            )
        shares = np.array([self._to_come(image) for image in group])
        votes = self._count(group, [*map(self._seen, group)], [*map(self._until, group)], stream)
        seconds = (time.perf_counter() - started) * shares / max(1, shares.sum())
        for image, vote, spent in zip(group, votes, seconds, strict=True):
            cast = vote + image.looks[-1] if image.looks else vote
            image.looks.append(cast if image.known is None else image.known)
            image.seconds += float(spent)

    def _recheck(self, group: list[_Image]) -> None:
        """Cast a batch of the group again after rounds 1, 2, 4, 8 ..., and of every 1,000 batches
        one: a classifier that is no function of one input may have passed its first probe.
        """
        if not group:
            return
        self._rounds += 1
        self._unchecked += sum(image.looks[-1].sum() for image in group) / self._batch_rows
        if self._rounds & (self._rounds - 1) and self._unchecked < _RECHECK_BATCHES:
            return
        self._unchecked = 0.0
        stream = PREDICTION if self._settings.predicts else ESTIMATION
        pixels = torch.stack([image.loaded.pixels for image in group])
        ids = [image.loaded.image_id for image in group]
        defects = self._cast_again(self._sampler, pixels, ids, 0, stream)
        for defect in defects:
            self._sink.warn(defect.reason)
        settle(defects, self._allow)

    @property
    def _batch_rows(self) -> int:
        return self._sampler.batch_size or 1

    def _count(
        self, images: list[_Image], start: list[int], stop: list[int], stream: int
    ) -> NDArray[np.int64]:
        pixels = torch.stack([image.loaded.pixels for image in images])
        ids = [image.loaded.image_id for image in images]
        return self._sampler.count(pixels, ids, start, stop, stream)

    def _judged(self, group: list[_Image]) -> tuple[list[Row], list[_Image]]:
        """Return the rows of the images that are done, and the images that need more samples."""
        done = self._decided(group)
        finished = [image for image, is_done in zip(group, done, strict=True) if is_done]
        more = [image for image, is_done in zip(group, done, strict=True) if not is_done]
        return self._rows(finished), more

    def _decided(self, group: list[_Image]) -> NDArray[np.bool_]:
        """Return which images need no more samples; early stopping notes the best look so far."""
        settings = self._settings
        if settings.radii is None:
            return np.array([len(image.looks) == len(image.ends) for image in group])
        votes = self._votes(group, [len(image.looks) - 1 for image in group])
        progress = decide(
            votes.counts,
            votes.top,
            [len(image.looks) - 1 for image in group],
            schedule=settings.schedule,
            sigma=settings.sigma,
            radii=settings.radii,
            method=settings.method,
            invalid=votes.invalid,
            wanted=votes.top == [image.loaded.label for image in group],
            so_far=Progress(
                np.array([image.radius for image in group]),
                np.array([image.best_look for image in group]),
                np.zeros(len(group), bool),
            ),
        )
        for image, radius, best in zip(group, progress.radius, progress.look, strict=True):
            image.radius, image.best_look = float(radius), int(best)
        done: NDArray[np.bool_] = progress.done
        return done

    def _votes(self, images: list[_Image], looks: list[int]) -> Votes:
        """Return the votes of images, each at one of its looks."""
        columns = np.array([image.looks[look] for image, look in zip(images, looks, strict=True)])
        return Votes.from_columns(columns, np.array([image.top for image in images]))

    def _rows(self, images: list[_Image]) -> list[Row]:
        """Return the rows of finished images, certified at the best of their looks."""
        if not images:
            return []
        tried = [self._tried(image) for image in images]
        looks = [look for some in tried for look in some]
        each = [image for image, some in zip(images, tried, strict=True) for _ in some]
        found = self._settings.certificates(self._votes(each, looks), np.array(looks))
        rows, ends = [], np.cumsum([*map(len, tried)])[:-1]
        for image, some, part in zip(images, tried, np.split(found, ends), strict=True):
            best = int(part["radius"].argmax()) if part["radius"].any() else -1
            rows.append(self._row(image, some[best], part[best]))
        return rows

    def _tried(self, image: _Image) -> list[int]:
        """Return the looks that may give the certificate: early stopping has noted the best."""
        if self._settings.radii is None:
            return [*range(len(image.looks))]
        return [image.best_look if image.best_look >= 0 else len(image.looks) - 1]

    def _row(self, image: _Image, look: int, certificate: Any) -> Row:
        squared_levels = int(self._settings.squared_levels(certificate["radius"]))
        return Row(
            image_id=image.loaded.image_id,
            label=image.loaded.label,
            predicted=int(certificate["predicted"]),
            radius=float(certificate["radius"]),
            p_a_lower=float(certificate["p_a"]),
            p_b_upper=float(certificate["p_b"]),
            top=-1 if self._settings.predicts else image.top,
            look=look,
            selection=image.selection,
            looks=np.array(image.looks),
            squared_levels=None if squared_levels < 0 else squared_levels,
            seconds=image.seconds,
        )

    def _fail(
        self, loaded: Loaded, reason: str, streak: list[Row], error: Exception | None = None
    ) -> None:
        """Make an image that cannot be certified a row; after three exceptions in a row, stop."""
        row = Row.failed(loaded.image_id, loaded.label, reason, self._settings.num_classes)
        if loaded.excused:
            self._sink.add([row])
            return
        # Kept until another image succeeds: a resume tries them again.
        streak.append(row)
        if len(streak) == FAILURES_IN_A_ROW:
            raise StoppedError(
                f"Stopped: {FAILURES_IN_A_ROW} images in a row failed, image {row.image_id} with"
                f" {row.error}. What was finished is in `{self._sink.path}`; resume continues it."
            ) from error

    def _end_streak(self, streak: list[Row]) -> None:
        self._sink.add(streak)
        streak.clear()
