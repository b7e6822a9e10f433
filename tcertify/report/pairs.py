"""Two results on the same images, image by image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tcertify.report.results import Result
from tcertify.statistics.paired import Gain, certified_gain


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare_results` found.

    Attributes
    ----------
    gain : Gain
        At each radius, what the second gains over the first, over the images that both hold.
    image_id : int64 array (M,)
        The images that both hold, in growing order.
    before, after : float64 arrays (M,)
        Their radii where they are certified as their true class, else -1.
    only_first, only_second : int
        Images that only one of the results holds; they are left out.
    """

    gain: Gain
    image_id: NDArray[np.int64]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    only_first: int
    only_second: int

    def gained(self, radius: float) -> list[int]:
        """Return the images that only the second certifies at `radius`."""
        return self._only(self.after, self.before, radius)

    def lost(self, radius: float) -> list[int]:
        """Return the images that only the first certifies at `radius`."""
        return self._only(self.before, self.after, radius)

    def _only(
        self, these: NDArray[np.float64], those: NDArray[np.float64], radius: float
    ) -> list[int]:
        chosen: list[int] = self.image_id[(these >= radius) & (those < radius)].tolist()
        return chosen


def compare_results(
    first: Result, second: Result, radii: Iterable[float], *, alpha: float = 0.05
) -> Comparison:
    """Compare two results on the images that both hold; see `certified_gain`.

    Raises
    ------
    ValueError
        They have no image in common, or one of the same number but another label: then they are
        from different data.
    """
    shared, at_first, at_second = np.intersect1d(
        first.image_id, second.image_id, assume_unique=True, return_indices=True
    )
    if not len(shared):
        raise ValueError(f"{first.name} and {second.name} have no image in common.")
    differ = first.label[at_first] != second.label[at_second]
    if differ.any():
        raise ValueError(
            f"{first.name} and {second.name} are from different data: image {shared[differ][0]} has"
            f" label {first.label[at_first][differ][0]} in one and"
            f" {second.label[at_second][differ][0]} in the other."
        )
    before, after = _scores(first)[at_first], _scores(second)[at_second]
    return Comparison(
        gain=certified_gain(before, after, np.array([*radii], np.float64), alpha=alpha),
        image_id=shared,
        before=before,
        after=after,
        only_first=len(first) - len(shared),
        only_second=len(second) - len(shared),
    )


def _scores(result: Result) -> NDArray[np.float64]:
    return np.where(result.correct, result.radius, -1.0)
