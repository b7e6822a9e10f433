"""How a run on a cluster goes: rates of all workers and of each, stragglers, the time left."""

from __future__ import annotations

import time
from collections.abc import Callable

from tcertify.cluster.pool import Hand, Pool

#: A line comes this often.
_SECONDS = 60.0

#: More workers than these are told by the slowest and the fastest.
_FEW = 4


class Rates:
    """Tells `on_report` once a minute how a run goes, in one line."""

    def __init__(self, pool: Pool, images: int, on_report: Callable[[str], None] | None) -> None:
        self._pool, self._images, self._on_report = pool, images, on_report
        self._started = self._said = time.monotonic()
        self.done = self.samples = 0

    def add(self, hand: Hand, images: int, samples: int) -> None:
        """Note what a worker did."""
        self.done += images
        self.samples += samples
        hand.images += images
        hand.samples += samples

    def tick(self) -> None:
        """Tell, if it is time."""
        now = time.monotonic()
        if self._on_report and now - self._said >= _SECONDS:
            self._said = now
            self._on_report(self.line(now - self._started))

    def line(self, seconds: float) -> str:
        """Return how the run goes, so many seconds after its start."""
        hands = [hand for hand in self._pool.hands if hand.begun]
        parts = [
            f"{self.done} of {self._images} images",
            f"{self.done / seconds:.3g} images/s, {self.samples / seconds:.3g} samples/s on"
            f" {len(hands)} workers ({_each(hands, seconds)})",
        ]
        if self.done:
            left = (self._images - self.done) * seconds / self.done
            parts.append(f"about {left / 60:.0f} minutes left")
        late = [f"{hand.name} at {hand.task.name}" for hand in self._pool.stragglers() if hand.task]
        return "; ".join([", ".join(parts), *(f"straggler: {text}" for text in late[:_FEW])])


def _each(hands: list[Hand], seconds: float) -> str:
    """Return the samples per second of each worker, or of the slowest and the fastest."""
    by_rate = sorted(hands, key=lambda hand: hand.samples)
    if len(by_rate) > _FEW:
        by_rate = [by_rate[0], by_rate[-1]]
    return ", ".join(f"worker {h.number}: {h.samples / seconds:.3g}" for h in by_rate)
