"""What the rows of a run depend on, and the one way from votes to a row's certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tcertify._checks import check_alpha, check_positive, check_real, check_whole
from tcertify.certificates import METHODS, certify_counts, predict_counts
from tcertify.statistics.planning import largest_radius
from tcertify.statistics.stopping import Schedule

#: Seeds are stored as SQLite's integers.
MAX_SEED = 2**63 - 1

CERTIFICATE = np.dtype(
    [("label", np.int64), ("radius", np.float64), ("p_a", np.float64), ("p_b", np.float64)]
)

#: The certificate that says nothing.
NOTHING = (-1, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Settings:
    """The settings of a run that certifies, or predicts when `method` is "predict".

    ``looks`` and ``levels`` are the schedule of the samples; a run without early stopping has one
    look. ``radii`` are the radii that early stopping decides.
    """

    num_classes: int
    sigma: float
    n0: int
    alpha: float
    method: str
    seed: int
    looks: tuple[int, ...]
    levels: tuple[float, ...]
    radii: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_whole("num_classes", self.num_classes, minimum=2, maximum=2**24)
        check_positive("sigma", self.sigma)
        check_whole("n0", self.n0, minimum=0 if self.predicts else 1)
        check_alpha("alpha", self.alpha)
        check_whole("seed", self.seed, minimum=0, maximum=MAX_SEED)
        if self.method not in (*METHODS, "predict"):
            raise ValueError(f"`method` must be one of {', '.join(METHODS)}, got {self.method!r}.")
        if self.radii is not None:
            bad = [r for r in self.radii if not 0 <= check_real("radii", r) < np.inf]
            if bad or not self.radii:
                got = bad[0] if bad else "none"
                raise ValueError(f"`radii` must be non-negative and finite, got {got}.")
        if self.schedule.alpha > self.alpha:
            raise ValueError(f"`levels` must not sum to more than alpha = {self.alpha}.")

    @classmethod
    def make(
        cls,
        *,
        n: int,
        alpha: float,
        radii: Sequence[float] | None = None,
        n0: int = 0,
        method: str = "predict",
        **others: Any,
    ) -> Settings:
        """Return the settings of a new run, with early stopping when radii are given."""
        n, alpha = check_whole("n", n), check_alpha("alpha", alpha)
        if radii is None:
            schedule = Schedule.single(n, alpha)
        else:
            radii = tuple(radii)
            schedule = Schedule.geometric(n, alpha, first=max(100, n // 100))
        return cls(
            n0=n0,
            alpha=alpha,
            method=method,
            looks=schedule.looks,
            levels=schedule.levels,
            radii=radii,
            **others,
        )

    @classmethod
    def from_parameters(cls, parameters: dict[str, Any]) -> Self:
        """Return the settings that a run file holds; a ValueError names what is wrong."""
        values = {name: parameters.get(name) for name in cls.__dataclass_fields__}
        for name in ("looks", "levels", "radii"):
            if values[name] is not None:
                values[name] = tuple(values[name] or ())
        return cls(**values)  # type: ignore[arg-type]

    @property
    def predicts(self) -> bool:
        """Whether the run predicts rather than certifies."""
        return self.method == "predict"

    @property
    def n(self) -> int:
        """Estimation samples of an image that is not stopped early."""
        return self.looks[-1]

    @cached_property
    def schedule(self) -> Schedule:
        """The looks with their levels."""
        return Schedule(self.looks, self.levels)

    def largest_radius(self) -> float:
        """Return the radius that unanimous votes certify at the last look."""
        return largest_radius(self.n, self.levels[-1], self.sigma, method=self.method)

    def certificates(
        self, votes: NDArray[np.int64], top: NDArray[np.int64], look: NDArray[np.int64]
    ) -> NDArray[Any]:
        """Return what votes (M, C + 1) at the given looks (M,) support: an array of `CERTIFICATE`.

        A prediction certifies no radius: it holds 0, and the bounds that say nothing.
        """
        result = np.zeros(len(votes), CERTIFICATE)
        if self.predicts:
            result["label"] = predict_counts(votes[:, :-1], self.alpha)
            result["p_b"] = 1
            return result
        for level in np.unique(look):
            rows = look == level
            found = certify_counts(
                votes[rows, :-1],
                top[rows],
                sigma=self.sigma,
                alpha=self.levels[level],
                method=self.method,
                invalid=votes[rows, -1],
            )
            arrays = found.predicted, found.radius, found.p_a_lower, found.p_b_upper
            for name, array in zip(CERTIFICATE.names or (), arrays, strict=True):
                result[name][rows] = array
        return result
