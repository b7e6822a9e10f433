"""Tasks on the workers of a cluster, so that none is lost: retried, replaced, cast again.

A task gives the same answer wherever and however often it is done, which makes all of this
harmless: the first answer counts, and any other is dropped.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tcertify.cluster.worker import Begun, Outcome
from tcertify.errors import RunError, StoppedError

#: A task that failed so often is given up; so many given up in a row end the run.
ATTEMPTS = 3
FAILURES_IN_A_ROW = 3

#: A task is cast again where it has taken so many times what others took, and so many seconds.
STRAGGLES, STRAGGLER_SECONDS = 3.0, 10.0

#: Without a single worker the run waits so long, in seconds, for one to come back. With one it
#: waits so long for the others to begin; who begins later, joins in.
PATIENCE, START_SECONDS = 600.0, 60.0

_TICK = 1.0
_MOST_REASON = 300


@dataclass(eq=False)
class Task:
    """One call of a worker's method, and how it went; `size` is in a unit of the caller's."""

    method: str
    arguments: tuple[Any, ...]
    name: str
    size: float
    reasons: list[str] = field(default_factory=list)
    at_work: int = 0
    again: bool = False
    done: bool = False


@dataclass(eq=False)
class Hand:
    """A worker as its driver sees it."""

    actor: Any
    number: int
    facts: dict[str, Any] = field(default_factory=dict)
    begun: bool = False
    task: Task | None = None
    since: float = 0.0
    size: float = 0.0
    seconds: float = 0.0
    images: int = 0
    samples: int = 0

    @property
    def name(self) -> str:
        """What messages call it."""
        where = f" (pid {self.facts['pid']} on {self.facts['host']})" if self.facts else ""
        return f"worker {self.number}{where}"


class Pool:
    """The workers of a run, those that died replaced.

    Parameters
    ----------
    ray
        Ray's module, connected.
    spawn : callable
        Returns a new actor, a `Worker`.
    workers : int
        How many of them.
    versions, parameters : callable
        From what a worker says of itself before and after it has begun to what is wrong with it,
        or None where it may work.
    order
        What each worker begins with, a reference.

    Attributes
    ----------
    hands : list of Hand
        The workers that are there.
    given_up : list of Task
        Those that failed `ATTEMPTS` times.
    warnings : deque of str
        What the run should keep of its workers, for the caller to take.
    """

    def __init__(
        self,
        ray: Any,
        spawn: Callable[[], Any],
        workers: int,
        versions: Callable[[dict[str, Any]], str | None],
        parameters: Callable[[Begun], str | None],
        order: Any,
    ) -> None:
        self._ray, self._spawn, self._order = ray, spawn, order
        self._versions, self._parameters = versions, parameters
        self._number = 0
        self._strict = True
        self._refs: dict[Any, Hand] = {}
        self._retries: deque[Task] = deque()
        self._given_up_in_a_row = self._stillborn = 0
        self._last_alive = time.monotonic()
        self.hands: list[Hand] = []
        self.given_up: list[Task] = []
        self.warnings: deque[str] = deque()
        self.on_tick: Callable[[], None] = lambda: None
        for _ in range(workers):
            self._hire()

    def start(self) -> None:
        """Wait until the workers have begun; raise for one that may not work."""
        until = time.monotonic() + START_SECONDS
        while not all(hand.begun for hand in self.hands):
            for ref in self._ready():
                self._end(ref)
            self._check_alive()
            if time.monotonic() > until and any(hand.begun for hand in self.hands):
                break
        self._strict = False

    def run(self, supply: Callable[[], Task | None]) -> Iterator[tuple[Task, Hand, Outcome]]:
        """Do the tasks that `supply` gives until it has no more; yield the answers as they come.

        An answer with an ``error`` is for the caller to raise. Of a task that is given up comes
        what was done of it the last time, if anything.
        """
        under_way: set[Task] = set()
        more = True

        def supplied() -> Task | None:
            nonlocal more
            task = supply() if more else None
            more = task is not None
            return task

        while True:
            self._assign(supplied, under_way)
            if not under_way and not more:
                return
            for ref in self._ready():
                answer = self._end(ref)
                if answer is not None:
                    yield answer
            under_way = {task for task in under_way if not task.done}
            self._check_alive()
            self.on_tick()

    def everyone(self, method: str, *arguments: Any) -> Iterator[tuple[Hand, Outcome]]:
        """Call a method of all workers that are there and have nothing to do."""
        idle = [hand for hand in self.hands if hand.begun and hand.task is None]
        refs = [(hand, getattr(hand.actor, method).remote(*arguments)) for hand in idle]
        for hand, ref in refs:
            try:
                yield hand, self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                self._lose(hand, error)

    def stragglers(self) -> list[Hand]:
        """Return the workers whose task takes much longer than others took."""
        now = time.monotonic()
        return [
            hand
            for hand in self.hands
            if hand.task is not None
            and not hand.task.done
            and now - hand.since > max(STRAGGLER_SECONDS, STRAGGLES * self._expected(hand.task))
        ]

    def seconds_per_size(self) -> float:
        """Return how long a unit of size takes a worker; 0 while nothing is known."""
        size = sum(hand.size for hand in self.hands)
        return sum(hand.seconds for hand in self.hands) / size if size else 0.0

    def close(self) -> None:
        """End the workers."""
        for hand in self.hands:
            self._ray.kill(hand.actor)
        self.hands.clear()
        self._refs.clear()

    def _expected(self, task: Task) -> float:
        return task.size * self.seconds_per_size()

    def _hire(self) -> None:
        self._number += 1
        hand = Hand(self._spawn(), self._number)
        self.hands.append(hand)
        self._refs[hand.actor.name.remote()] = hand

    def _ready(self) -> list[Any]:
        """Return the calls that have ended, after a second at most."""
        if not self._refs:
            return []
        first, _ = self._ray.wait([*self._refs], timeout=_TICK)
        return [*first]

    def _assign(self, supply: Callable[[], Task | None], under_way: set[Task]) -> None:
        for hand in self.hands:
            if hand.begun and hand.task is None:
                task = self._next(supply)
                if task is None:
                    return
                under_way.add(task)
                task.at_work += 1
                hand.task, hand.since = task, time.monotonic()
                self._refs[getattr(hand.actor, task.method).remote(*task.arguments)] = hand

    def _next(self, supply: Callable[[], Task | None]) -> Task | None:
        """Return what failed before, then what is new, then what takes another worker too long."""
        if self._retries:
            return self._retries.popleft()
        task = supply()
        if task is not None:
            return task
        for hand in self.stragglers():
            assert hand.task is not None
            if not hand.task.again:
                hand.task.again = True
                self.warnings.append(
                    f"Cast again elsewhere: {hand.task.name}, at which {hand.name} was for"
                    f" {time.monotonic() - hand.since:.0f} s."
                )
                return hand.task
        return None

    def _end(self, ref: Any) -> tuple[Task, Hand, Outcome] | None:
        """Take what a call returned; return the answer of a task that is done by it."""
        hand = self._refs.pop(ref)
        task, hand.task = hand.task, None
        try:
            result = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            self._lose(hand, error)
            if task is not None:
                task.at_work -= 1
                self._failed(task, f"{hand.name} ended: {_why(error)}")
            return None
        if not hand.begun:
            self._welcome(hand, result)
            return None
        assert task is not None
        task.at_work -= 1
        if task.done:
            return None
        if result.failed is not None:
            self._failed(task, f"{result.failed}, on {hand.name}")
            return (task, hand, result) if task.done else None
        task.done = True
        self._given_up_in_a_row = 0
        hand.size += task.size
        hand.seconds += time.monotonic() - hand.since
        return task, hand, result

    def _failed(self, task: Task, reason: str) -> None:
        """Try a task again, or give it up; not while another worker is still at it."""
        if task.done:
            return
        task.reasons.append(reason)
        if task.at_work:
            return
        if len(task.reasons) < ATTEMPTS:
            self.warnings.append(f"Tried again: {task.name}, which failed ({reason}).")
            self._retries.append(task)
            return
        task.done = True
        self.given_up.append(task)
        self.warnings.append(
            f"Given up after {len(task.reasons)} attempts: {task.name} ({reason})."
        )
        self._given_up_in_a_row += 1
        if self._given_up_in_a_row == FAILURES_IN_A_ROW:
            raise StoppedError(
                f"Stopped: {FAILURES_IN_A_ROW} tasks in a row failed {ATTEMPTS} times each, the"
                f" last with {reason}. What was finished is in the run file; resume continues it."
            )

    def _welcome(self, hand: Hand, result: Any) -> None:
        """Take a worker one step further: it says who it is, begins, and is judged."""
        if not hand.facts:
            hand.facts = result
            problem = self._versions(result)
            if problem is None:
                self._refs[hand.actor.begin.remote(self._order)] = hand
                return
        elif result.error is not None:
            if self._strict:
                raise result.error
            problem = str(result.error)
        elif result.failed is not None:
            problem = f"it cannot begin: {result.failed}"
        else:
            problem = self._parameters(result.value)
            if problem is None:
                hand.begun, self._stillborn = True, 0
                return
        self._refuse(hand, problem)

    def _refuse(self, hand: Hand, problem: str) -> None:
        text = f"{hand.name[0].upper()}{hand.name[1:]} was refused: {problem.rstrip('.')}."
        if self._strict:
            raise RunError(text)
        self.warnings.append(text)
        self._ray.kill(hand.actor)
        self.hands.remove(hand)
        if not self.hands:
            raise RunError(f"No worker is left. {text}")

    def _lose(self, hand: Hand, error: BaseException) -> None:
        """Replace a worker that is gone."""
        self.hands.remove(hand)
        self._ray.kill(hand.actor)  # it may only be out of reach
        reason = f"{hand.name} ended: {_why(error)}"
        if not hand.begun:
            self._stillborn += 1
            if self._stillborn == ATTEMPTS:
                raise RunError(f"{ATTEMPTS} workers in a row ended before they had begun: {reason}")
        self.warnings.append(f"Replaced: {reason}.")
        self._hire()

    def _check_alive(self) -> None:
        """Raise where no worker has been there for too long."""
        now = time.monotonic()
        if any(hand.begun for hand in self.hands):
            self._last_alive = now
        elif now - self._last_alive > PATIENCE:
            raise RunError(
                f"No worker came up within {PATIENCE / 60:g} minutes. What was finished is in the"
                " run file; resume continues it."
            )


def _why(error: BaseException) -> str:
    """Return in one line why Ray lost a worker."""
    text = " ".join(str(error).split())
    told = re.search(r"Worker exit detail: (.*?)(?:\. There are|\. \(\d\)|$)", text)
    return (told[1] if told else text or type(error).__name__)[:_MOST_REASON].rstrip(".")
