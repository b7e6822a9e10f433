"""What the rows of a run depend on, and the one way from votes to a row's certificate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tcertify._checks import (
    check_alpha,
    check_choice,
    check_non_negative,
    check_positive,
    check_real,
    check_whole,
)
from tcertify.bounds import charge
from tcertify.certificates import (
    ABSTAIN,
    METHODS,
    Certificates,
    certify_votes,
    predict_counts,
)
from tcertify.radius import largest_integer_change
from tcertify.statistics.allocation import (
    Price,
    check_loss,
    check_sizes,
    plan_at_price,
    plan_for_loss,
    plan_sizes,
)
from tcertify.statistics.planning import largest_radius
from tcertify.statistics.reserve import unreserved
from tcertify.statistics.stopping import Schedule
from tcertify.votes import Votes

if TYPE_CHECKING:
    from tcertify.sampling import Noise

#: The kinds of noise that a run can be made under.
KINDS = ("gaussian", "integer")

#: Seeds are stored as SQLite's integers.
MAX_SEED = 2**63 - 1

#: Samples of an image: more than any run casts, and few enough to recompute a bound.
MAX_N = 2**32

#: Looks of an image, and numbers that the votes of one image are made of: (looks, C + 1).
MAX_LOOKS, MAX_VOTES = 10_000, 2**22

#: An image has no more axes, and no longer ones.
MAX_AXES, MAX_SIDE = 8, 2**24

#: Noise is added in float32; beyond these its products are no normal numbers any more.
_LEAST_SIGMA, _MOST_SIGMA = 1e-30, 1e30

#: Other versions of the special functions may round a bound, a level or a plan otherwise, by less
#: than this.
ROUNDING = 1e-9

CERTIFICATE = np.dtype(
    [("predicted", np.int64), ("radius", np.float64), ("p_a", np.float64), ("p_b", np.float64)]
)

#: The certificate that says nothing.
NOTHING = (-1, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Settings:
    """The settings of a run that certifies, or predicts when `method` is "predict".

    ``looks`` are the samples after which the votes of an image are looked at, ``look_levels`` the
    share of alpha that each look may spend; a run without early stopping has one look. ``radii``
    are the radii that early stopping decides. ``radius_loss`` is the share of its radius that an
    image may lose to a plan, which then chooses its samples among ``sizes``; the one look is after
    these. A plan may also keep the whole run to ``budget`` estimation samples: then ``price`` is
    what a sample must gain, and ``price_share`` the share of the images on the brink that take the
    larger size. ``reserve`` is the share of alpha that was kept for topping up, which adds looks.
    ``noise`` is one of `KINDS`; ``levels`` are the grey levels above 0 of integer noise. ``shape``
    is that of an image, None until one was seen. Under ``charge_noise`` the levels of the looks are
    so much smaller that alpha holds under Gaussian noise as it is drawn.
    """

    num_classes: int
    sigma: float
    n0: int
    alpha: float
    method: str
    seed: int
    looks: tuple[int, ...]
    look_levels: tuple[float, ...]
    radii: tuple[float, ...] | None = None
    noise: str = "gaussian"
    levels: int | None = None
    charge_noise: bool = False
    shape: tuple[int, ...] | None = None
    radius_loss: float | None = None
    sizes: tuple[int, ...] | None = None
    budget: int | None = None
    price: float | None = None
    price_share: float | None = None
    reserve: float | None = None

    def __post_init__(self) -> None:
        check_whole("num_classes", self.num_classes, minimum=2)
        if self.noise not in KINDS:
            raise ValueError(f"`noise` is {self.noise!r:.70}, which this version does not know.")
        if not _LEAST_SIGMA <= check_real("sigma", self.sigma) <= _MOST_SIGMA:
            raise ValueError(
                f"`sigma` must be positive, from {_LEAST_SIGMA} to {_MOST_SIGMA}, got {self.sigma}."
            )
        self._check_levels()
        check_whole("n0", self.n0, minimum=0 if self.predicts else 1, maximum=MAX_N)
        check_whole("n", self.n, maximum=MAX_N)
        check_alpha("alpha", self.alpha)
        check_whole("seed", self.seed, minimum=0, maximum=MAX_SEED)
        if not self.predicts:
            check_choice("method", self.method, METHODS)
        if self.radii is not None and not [check_non_negative("radii", r) for r in self.radii]:
            raise ValueError("`radii` must name at least one radius.")
        if len(self.looks) > MAX_LOOKS or (self.num_classes + 1) * len(self.looks) > MAX_VOTES:
            raise ValueError(
                f"`num_classes` = {self.num_classes} with {len(self.looks)} looks takes more than"
                f" {MAX_VOTES} numbers for each image."
            )
        self._check_plan()
        self._check_charge()
        self._check_reserve()
        if self.schedule.alpha > self.charged(self.alpha) * (1 + ROUNDING * self.charge_noise):
            charged = ", charged for the noise" if self.charge_noise else ""
            raise ValueError(
                f"`look_levels` must not sum to more than alpha = {self.alpha}{charged}."
            )

    def _check_charge(self) -> None:
        if type(self.charge_noise) is not bool:
            raise ValueError(
                f"`charge_noise` must be true or false, got {self.charge_noise!r:.70}."
            )
        if self.charge_noise and self.noise != "gaussian":
            raise ValueError(f"`charge_noise` is for Gaussian noise, got {self.noise} noise.")
        if self.shape is not None:
            if not 0 < len(self.shape) <= MAX_AXES:
                raise ValueError(f"`shape` must name 1 to {MAX_AXES} sides.")
            for side in self.shape:
                check_whole("shape", side, maximum=MAX_SIDE)

    def _check_reserve(self) -> None:
        if self.reserve is None:
            return
        unreserved(self.alpha, self.reserve)
        for name in ("radius_loss", "budget", "charge_noise"):
            if getattr(self, name):
                raise ValueError(f"`reserve` must not be given with `{name}`.")
        if self.predicts:
            raise ValueError("`reserve` is for certificates, not for predictions.")

    def _check_levels(self) -> None:
        from tcertify_kernels.integer_noise import check_levels, reach

        if self.noise == "integer":
            reach(self.sigma, check_levels(self.levels))
        elif self.levels is not None:
            raise ValueError(f"`levels` are those of integer noise, got {self.levels!r:.70}.")

    def _check_plan(self) -> None:
        priced = (self.budget, self.price, self.price_share)
        if None in priced and priced != (None, None, None):
            raise ValueError("`budget`, `price` and `price_share` must be given together.")
        asked = [name for name in ("radius_loss", "budget") if getattr(self, name) is not None]
        if len(asked) > 1:
            raise ValueError("`radius_loss` must not be given with `budget`.")
        if bool(asked) != (self.sizes is not None):
            raise ValueError("`radius_loss` or `budget` must be given together with `sizes`.")
        if not asked or self.sizes is None:
            return
        if self.radii is not None or self.predicts:
            raise ValueError(f"`{asked[0]}` must not be given with `radii`, or for predictions.")
        if self.radius_loss is not None:
            check_loss(self.radius_loss)
        else:
            check_whole("budget", self.budget)
            check_positive("price", self.price)
            if not 0 <= check_real("price_share", self.price_share) <= 1:
                raise ValueError(f"`price_share` must be in [0, 1], got {self.price_share}.")
        if len(self.sizes) > MAX_LOOKS or [*check_sizes(self.sizes)][-1:] != [*self.looks]:
            raise ValueError(f"`sizes` must be at most {MAX_LOOKS}, the last of them n = {self.n}.")

    @classmethod
    def make(
        cls,
        *,
        num_classes: int,
        sigma: float,
        n: int,
        alpha: float,
        n0: int = 0,
        method: str = "predict",
        radii: Sequence[float] | None = None,
        radius_loss: float | None = None,
        reserve: float | None = None,
        seed: int = 0,
        noise: str = "gaussian",
        levels: int | None = None,
        charge_noise: bool = False,
    ) -> Settings:
        """Return the settings of a new run, with early stopping when radii are given, with a plan
        for each image when a radius loss is, and with a share of alpha kept when a reserve is.
        """
        n, alpha = check_whole("n", n, maximum=MAX_N), check_alpha("alpha", alpha)
        spent = alpha if reserve is None else unreserved(alpha, reserve)
        schedule = Schedule.single(n, spent) if radii is None else Schedule.geometric(n, spent)
        return cls(
            num_classes=num_classes,
            sigma=sigma,
            n0=n0,
            alpha=alpha,
            method=method,
            seed=seed,
            looks=schedule.looks,
            look_levels=schedule.levels,
            radii=None if radii is None else tuple(radii),
            noise=noise,
            levels=levels,
            charge_noise=charge_noise,
            radius_loss=radius_loss,
            sizes=None if radius_loss is None else plan_sizes(n, alpha),
            reserve=reserve,
        )

    @classmethod
    def from_parameters(cls, parameters: dict[str, Any]) -> Self:
        """Return the settings among a run file's parameters.

        Raises
        ------
        ValueError, TypeError
            One is missing or makes no sense.
        """
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in parameters]
        if missing:
            raise ValueError(f"`{missing[0]}` is missing.")
        values = {name: parameters[name] for name in names}
        for name in ("looks", "look_levels", "radii", "shape", "sizes"):
            if isinstance(values[name], list) and len(values[name]) <= MAX_LOOKS:
                values[name] = tuple(values[name])
            elif name in ("looks", "look_levels") or values[name] is not None:
                raise ValueError(f"`{name}` must be at most {MAX_LOOKS} numbers.")
        settings = cls(**values)
        if settings.charge_noise and settings.shape is None:
            raise ValueError("`charge_noise` says nothing without `shape`.")
        return settings

    @property
    def predicts(self) -> bool:
        """Whether the run predicts rather than certifies."""
        return self.method == "predict"

    @property
    def n(self) -> int:
        """Estimation samples of an image that is not stopped early."""
        return self.looks[-1] if self.looks else 0

    @property
    def ending(self) -> str:
        """What a log adds to the method of a run whose images had samples of different number, or
        whose alpha paid for its noise or for a reserve.
        """
        samples = (
            "-early" if self.radii is not None else "-planned" if self.sizes is not None else ""
        )
        if self.reserve is not None:
            return f"-reserved{samples}"
        return f"-charged{samples}" if self.charge_noise else samples

    @property
    def claim(self) -> str:
        """What a plan promises of the samples, or a reserve of the certificates, in words; empty
        without them.
        """
        if self.reserve is not None:
            return self._claim_of_reserve(self.reserve)
        if self.sizes is None:
            return ""
        few = f"{self.sizes[0]} where the class is not the label or the image looked hopeless."
        if self.radius_loss is None:
            return (
                "The samples of each image were planned from the selection samples, within a budget"
                f" of {self.budget} for all images: so that one more would gain about the same"
                f" radius at each, {self.n} at most, and {few}"
            )
        return (
            "The samples of each image were planned from its selection sample: as many as are"
            f" expected to keep all but {100 * self.radius_loss:g} % of the radius that {self.n}"
            f" samples would give, and {few}"
        )

    def _claim_of_reserve(self, reserve: float) -> str:
        wrong = "wrong with probability at most"
        if self.topped_up:
            return (
                f"Topped up to {self.n} samples: the certificate of an image is that of the look"
                f" with the largest radius, {wrong} {self.alpha:g} whoever decided to top up."
            )
        return (
            f"{100 * reserve:g} % of alpha is kept for topping up: a certificate is {wrong}"
            f" {self.spent:g} as the run stands, and {self.alpha:g} whoever decides to top it up."
        )

    @property
    def topped_up(self) -> bool:
        """Whether looks were added to those of a run with a reserve."""
        if self.reserve is None:
            return False
        return self.schedule.alpha > unreserved(self.alpha, self.reserve) * (1 + ROUNDING)

    @property
    def spent(self) -> float:
        """The failure probability of a certificate as the run stands: alpha without a reserve."""
        return self.alpha if self.reserve is None else self.schedule.alpha

    @cached_property
    def schedule(self) -> Schedule:
        """The looks with their levels."""
        return Schedule(self.looks, self.look_levels)

    @property
    def size(self) -> int | None:
        """Numbers of an image, where its shape is known."""
        return None if self.shape is None else math.prod(self.shape)

    @property
    def n_tau(self) -> float | None:
        """The exponent by which Gaussian noise as drawn may raise the levels; None under integer
        noise, and where no image was seen.
        """
        if self.noise != "gaussian" or self.size is None:
            return None
        return charge.n_tau(self.schedule.alpha, self.n, self.size)

    def of_shape(self, shape: Sequence[int]) -> Settings:
        """Return the settings for images of a shape, charged for their noise if that was asked."""
        known = replace(self, shape=tuple(shape), charge_noise=False)
        if not self.charge_noise or known.size is None:
            return known
        level = charge.charged_alpha(self.alpha, self.n, known.size)
        levels = self.schedule.scaled(level).levels
        return replace(known, charge_noise=True, look_levels=levels)

    def charged(self, alpha: float) -> float:
        """Return what the levels of the looks may sum to."""
        if not self.charge_noise or self.size is None:
            return alpha
        return charge.charged_alpha(alpha, self.n, self.size)

    def within(self, budget: int, price: Price) -> Settings:
        """Return the settings with a plan that keeps to a budget at its price."""
        return replace(
            self,
            sizes=plan_sizes(self.n, self.alpha),
            budget=budget,
            price=price.of_sample,
            price_share=price.share,
        )

    def ends(self, selection: NDArray[np.int64], label: int, image_id: int) -> tuple[int, ...]:
        """Return the samples after which the votes of an image are looked at, from its selection
        votes (C + 1,) and its label.
        """
        if self.sizes is None:
            return self.looks
        return (self._planned(selection, label, image_id),)

    def may_end(
        self, ends: list[int], selection: NDArray[np.int64], label: int, image_id: int
    ) -> bool:
        """Whether the votes of an image may have been looked at after these samples, and no more;
        other versions of the special functions may plan otherwise by a hair.
        """
        if self.sizes is None:
            looks = self.looks if self.radii is None else self.looks[: len(ends)]
            return ends == [*looks]
        near = 1 - ROUNDING, 1 + ROUNDING
        return ends in [[self._planned(selection, label, image_id, factor)] for factor in near]

    def _planned(
        self, selection: NDArray[np.int64], label: int, image_id: int, factor: float = 1.0
    ) -> int:
        """Return the planned samples; `factor` changes what the plan depends on."""
        top = np.array([selection[:-1].argmax()])
        votes, sizes, wanted = (
            Votes.from_columns(selection[None], top),
            self.sizes or (),
            top == label,
        )
        if self.radius_loss is not None:
            loss = self.radius_loss * factor
            plan = plan_for_loss(votes, sizes, alpha=self.alpha, radius_loss=loss, wanted=wanted)
        else:
            assert self.price is not None
            assert self.price_share is not None
            price = Price(self.price * factor, self.price_share)
            plan = plan_at_price(
                votes, sizes, [image_id], alpha=self.alpha, price=price, wanted=wanted
            )
        return int(plan[0])

    def noise_source(self) -> Noise:
        """Return the noise of the run."""
        from tcertify.sampling.noise import make_noise

        return make_noise(self.noise, self.sigma, self.seed, self.levels)

    def squared_levels(self, radius: ArrayLike) -> NDArray[np.int64]:
        """Return what radii say in integers, as `largest_integer_change` does: -1 for radius 0, and
        for every radius under Gaussian noise.
        """
        if self.levels is None:
            return np.full(np.shape(radius), -1)
        return largest_integer_change(radius, self.levels)

    def largest_radius(self) -> float:
        """Return the radius that unanimous votes certify at the last look."""
        return largest_radius(self.n, self.look_levels[-1], self.sigma, method=self.method)

    def certificates(
        self, votes: Votes, look: NDArray[np.int64], order: float | None = None
    ) -> NDArray[Any]:
        """Return what the votes of M images at the given looks (M,) support: `CERTIFICATE` (M,).

        A prediction certifies no radius: it holds 0, and the bounds that say nothing. `order` is
        that of `certify_votes`.
        """
        if self.predicts:
            result = np.zeros(len(votes), CERTIFICATE)
            predicted = predict_counts(votes.counts, self.look_levels[0])
            result["predicted"] = np.where(self.are_sure(votes), predicted, ABSTAIN)
            result["p_b"] = 1
            return result
        return self.at_looks(votes, look, partial(certify_votes, method=self.method, order=order))

    def at_looks(
        self, votes: Votes, look: NDArray[np.int64], certify: Callable[..., Certificates]
    ) -> NDArray[Any]:
        """Return what `certify` makes of the votes, each at sigma and the level of its look."""
        result = np.zeros(len(votes), CERTIFICATE)
        for index in np.unique(look):
            rows = look == index
            some = votes[rows]
            found = certify(some, sigma=self.sigma, alpha=self.look_levels[index])
            found = found.only(self.are_sure(some))
            arrays = found.predicted, found.radius, found.p_a_lower, found.p_b_upper
            for name, array in zip(CERTIFICATE.names or (), arrays, strict=True):
                result[name][rows] = array
        return result

    def are_sure(self, votes: Votes) -> NDArray[np.bool_]:
        """Return which votes (M,) are all known. Whose vote a draw of integer noise is that ties,
        nobody knows: to leave it out would lower the share of a rival too.
        """
        sure: NDArray[np.bool_] = (votes.invalid == 0) | (self.levels is None)
        return sure
